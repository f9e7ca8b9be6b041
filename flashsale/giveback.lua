-- giveback.lua: end permits, so that others can have the units.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 key life in µs, 2 only permits with this deadline in µs (0 for any),
--         3 1 if SQL has an answer for them to be repeated, then the ids
-- Returns {permits ended}
-- Clock: the engine's. Retry: safe, a permit ends once.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local ended = 0
for i = 4, #ARGV do
  local had = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if had and (ARGV[2] == '0' or tonumber(had) == tonumber(ARGV[2])) then
    redis.call('ZREM', KEYS[1], ARGV[i])
    ended = ended + 1
    if ARGV[3] == '1' then
      redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[1]), ARGV[i])
    end
  end
end
if ended > 0 then
  if ARGV[3] == '1' then
    redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', math.ceil((now + 2 * ARGV[1]) / 1000)))
  end
  if redis.call('HGET', KEYS[3], 'state') then redis.call('HINCRBY', KEYS[3], 'version', ended) end
end
return {ended}
