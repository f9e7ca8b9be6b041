-- admit.lua: give a request a permit, or say why not.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 key life in µs, 2 permit's id, 3 its life in µs,
--         4 1 if SQL is known to have no answer for it
-- Returns {outcome, deadline in µs or 0}
--   0 no gate: it has to be built from SQL     1 admitted
--   2 spent: SQL may have an answer to repeat  3 sold out   4 not open yet
-- Clock: the engine's. Retry: safe, the same id gets the same permit.
local gate = {
  redis.call('HGET', KEYS[3], 'state'),
  redis.call('HGET', KEYS[3], 'cap'),
  redis.call('HGET', KEYS[3], 'opens')}
if gate[1] ~= 'open' then return {0, 0} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
if now < tonumber(gate[3]) then return {4, 0} end
local at = string.format('%.0f', math.ceil((now + 2 * ARGV[1]) / 1000))

-- Permits that have lapsed may have an answer in SQL: they become spent. Spent ones go when
-- their key has expired.
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)
for _, id in ipairs(lapsed) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[1]), id)
end
if #lapsed > 0 then
  redis.call('PEXPIREAT', KEYS[2], at)
  redis.call('HINCRBY', KEYS[3], 'version', #lapsed)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], id)
end

local deadline = now + ARGV[3]
local had = redis.call('ZSCORE', KEYS[1], ARGV[2])
if had and tonumber(had) > now then
  if tonumber(had) >= deadline then return {1, tonumber(had)} end
else
  if ARGV[4] ~= '1' and (had or redis.call('ZSCORE', KEYS[2], ARGV[2])) then return {2, 0} end
  local live = redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf')
  if live >= tonumber(gate[2]) then return {3, 0} end
  redis.call('HINCRBY', KEYS[3], 'version', 1)
  redis.call('ZREM', KEYS[2], ARGV[2])
end
redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), ARGV[2])
redis.call('PEXPIREAT', KEYS[1], at)
redis.call('PEXPIREAT', KEYS[3], at)
return {1, deadline}
