-- free.lua: what acquire does with a name that nobody has or waits for. It decides the same as what
-- follows would, which is for all names, with fewer commands.
-- It needs SET with GET: Redis 6.2, any Valkey.
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then
  local since, token = string.format('%.0f', now), now
  local text = since
  local was = tonumber(redis.call('SET', KEYS[1], since, 'GET') or '0')
  if was >= now then
    token = was + 1
    text = string.format('%.0f', token)
    redis.call('SET', KEYS[1], text)
  end
  local stop = now + ARGV[6]
  local deadline = math.min(now + ARGV[5], stop)
  local last = string.format('%.0f', stop)
  redis.call('HSET', KEYS[2], ARGV[2], text .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. string.format('%.0f', deadline) .. ' ' ..
    since .. ' ' .. last .. ' ' .. ARGV[10])
  redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', math.ceil(stop / 1000)))
  redis.call('ZADD', KEYS[5], last, ARGV[1])
  if token % 64 == 0 then redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', since) end
  return {1, token, deadline - now, 0}
end
