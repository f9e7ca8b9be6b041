-- buckets.lua (before meter.lua and take.lua): a call that takes or looks, and whose rules are all token buckets, which is
-- nearly every call. It decides what take.lua would, in half of the engine's time: nothing is defined for other kinds.
local plain = ARGV[1] < '2'
for k = 4, plain and #ARGV or 0, 5 do plain = plain and ARGV[k] == 't' end
if plain then
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2]
  local refused, empty, out = false, {}, {}
  for i = 1, #KEYS do
    local k = i * 5
    local a = tonumber(redis.call('GET', KEYS[i]) or '0')
    if a < now then a = now end
    local wait = a + (ARGV[k + 2] - ARGV[k]) * ARGV[k + 1] - now
    empty[i], out[i * 4 - 3], out[i * 4 - 2], out[i * 4 - 1] = a, 0, 0, 0
    if wait > 0 then
      out[i * 4 - 3], out[i * 4 - 1] = 1, wait
      refused = refused or ARGV[k + 3] == '0'
    end
  end
  local takes = not refused and ARGV[1] == '0'
  for i = 1, #KEYS do
    local k = i * 5
    local a, most, span = empty[i], tonumber(ARGV[k]), tonumber(ARGV[k + 1])
    if takes and out[i * 4 - 3] == 0 then
      a = a + ARGV[k + 2] * span
      redis.call('SET', KEYS[i], string.format('%.0f', a), 'PXAT', string.format('%.0f', math.ceil(a / 1000)))
    end
    local left = math.max(most - math.ceil((a - now) / span), 0)
    out[i * 4 - 2] = left
    out[i * 4] = left < most and math.max(a + (left + 1 - most) * span - now, 0) or 0
  end
  return {refused and 0 or 1, now, out}
end
