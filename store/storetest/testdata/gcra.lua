-- gcra.lua: take units from a bucket, count by name who took, remember the last takers.
-- KEYS[1] {b}:tat, KEYS[2] {b}:by, KEYS[3] {b}:recent
-- ARGV    1 µs per unit, 2 burst in units, 3 cost in units, 4 taker
-- Returns {1, 0} taken; {0, wait in µs} refused, nothing written.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local period, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + period * cost
local wait = tat - now - period * burst
if wait > 0 then return {0, wait} end
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PXAT', string.format('%.0f', math.ceil(tat / 1000)))
redis.call('HINCRBY', KEYS[2], ARGV[4], ARGV[3])
redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - 1000000))
return {1, 0}
