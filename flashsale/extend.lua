-- extend.lua: give permits at least this long to live; a permit that is not there is made.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 key life in µs; then for each permit: its id, and µs from now, or -1 for no deadline
-- Returns {1, permits made or prolonged}; {0, 0} no gate: it will be built from SQL.
-- Clock: the engine's. Retry: safe, a deadline only grows.
local never = 9007199254740991
if redis.call('HGET', KEYS[3], 'state') == false then return {0, 0} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local changed = 0
for i = 2, #ARGV, 2 do
  local id, life = ARGV[i], tonumber(ARGV[i + 1])
  local deadline = never
  if life >= 0 then deadline = now + life end
  local had = redis.call('ZSCORE', KEYS[1], id)
  if not had then redis.call('HINCRBY', KEYS[3], 'version', 1) end
  if not had or tonumber(had) < deadline then
    redis.call('ZADD', KEYS[1], string.format('%.0f', deadline), id)
    redis.call('ZREM', KEYS[2], id)
    changed = changed + 1
  end
end
if changed > 0 then
  local at = math.ceil((now + 2 * ARGV[1]) / 1000)
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', at))
  redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', at))
end
return {1, changed}
