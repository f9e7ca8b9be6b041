-- giveback.lua: end permits, so that others can have the units.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 key life in µs, 2 only permits with this deadline in µs (0 for any),
--         3 1 if SQL has an answer for them to be repeated, then the ids
-- Returns {permits ended}
-- A permit that is not there, because the store forgot it, becomes spent all the same: its key has
-- an answer. Without a gate nothing does: what is spent will be built from SQL.
-- Clock: the engine's. Retry: safe, a permit ends once.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local ended, spent = 0, 0
local built = redis.call('HGET', KEYS[3], 'state')
for i = 4, #ARGV do
  local had = redis.call('ZSCORE', KEYS[1], ARGV[i])
  local ends = had and (ARGV[2] == '0' or tonumber(had) == tonumber(ARGV[2]))
  if ends then
    redis.call('ZREM', KEYS[1], ARGV[i])
    ended = ended + 1
  end
  local known = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if ARGV[3] == '1' and built and not known and (ends or not had) then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[1]), ARGV[i])
    spent = spent + 1
  end
end
if spent > 0 then
  redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', math.ceil((now + 2 * ARGV[1]) / 1000)))
end
if ended > 0 and built then redis.call('HINCRBY', KEYS[3], 'version', ended) end
return {ended}
