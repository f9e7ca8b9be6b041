-- beat.lua: a process lives, or ends; how many live.
-- KEYS[1] process -> until when it counts as alive, µs
-- ARGV    1 process, 2 how long it counts from now, µs (0: it ends)
-- Returns {how many live}
-- Clock: the engine's. Retry: safe.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if ARGV[2] ~= '0' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil((now + 180000000) / 1000)))
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return {redis.call('ZCARD', KEYS[1])}
