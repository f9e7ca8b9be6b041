-- build.lua: build a gate from what SQL says, in three kinds of steps.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 key life in µs, 2 step, 3 generation (unique to the builder), 4 capacity,
--         5 opens at, µs by the engine's clock, 6 a generation that its builder has given up; then for each permit its id and µs from now,
--         or -1 for no deadline, or -2 for spent
--   step begin: start, unless it is open or somebody else is building
--   step add:   add the permits
--   step open:  done
-- Returns {1 if done, 1 if it is open}; {0, 0}: somebody else builds, or has taken over
-- Clock: the engine's. Retry: safe. A builder that dies is taken over after 1 s, one that gave up by itself at once.
local never, patience = 9007199254740991, 1000000
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local gate = {
  redis.call('HGET', KEYS[3], 'state'),
  redis.call('HGET', KEYS[3], 'gen'),
  redis.call('HGET', KEYS[3], 'until')}
if ARGV[2] == 'begin' then
  if gate[1] == 'open' then return {0, 1} end
  if gate[1] and gate[2] ~= ARGV[3] and gate[2] ~= ARGV[6] and tonumber(gate[3]) > now then return {0, 0} end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[3], 'state', 'building', 'gen', ARGV[3], 'cap', ARGV[4], 'opens', ARGV[5],
    'version', string.format('%.0f', now))
elseif gate[1] ~= 'building' or gate[2] ~= ARGV[3] then
  return {0, 0}
end
redis.call('HSET', KEYS[3], 'until', string.format('%.0f', now + patience))
for i = 7, #ARGV, 2 do
  local life = tonumber(ARGV[i + 1])
  if life == -2 then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[1]), ARGV[i])
  elseif life == -1 then
    redis.call('ZADD', KEYS[1], string.format('%.0f', never), ARGV[i])
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + life), ARGV[i])
  end
end
if ARGV[2] == 'open' then redis.call('HSET', KEYS[3], 'state', 'open') end
local at = string.format('%.0f', math.ceil((now + 2 * ARGV[1]) / 1000))
redis.call('PEXPIREAT', KEYS[1], at)
redis.call('PEXPIREAT', KEYS[2], at)
redis.call('PEXPIREAT', KEYS[3], at)
return {1, ARGV[2] == 'open' and 1 or 0}
