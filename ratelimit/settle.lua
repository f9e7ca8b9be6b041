-- settle.lua (behind meter.lua): give back what was taken too much, take what was taken too little.
-- KEYS    one a rule; behind them, where units were reserved, the record of the reservation
-- ARGV    1 id of the call; 2 what it came to, '-' to forget it, '' when there is no record; 3 when it was taken, µs;
--         then five a rule: kind, most units, span (µs), units taken, units to add (negative: to give back)
-- Returns {outcome}
--   0 there is no such reservation (any more)   1 done   2 done before   3 another settlement was done before
-- Clock: the engine's. Retry: with a record it is done once; without one it is not to be repeated.
local id, cameto, taken = ARGV[1], ARGV[2], tonumber(ARGV[3])
local rules = (#ARGV - 3) / 5
if cameto ~= '' then
  local record = redis.call('GET', KEYS[rules + 1])
  if not record then return {0} end
  local when, settled = string.match(record, '^(%d+) ?(.*)$')
  if settled ~= '' then return {settled == cameto and 2 or 3} end
  taken = tonumber(when)
  if cameto == '-' then
    redis.call('DEL', KEYS[rules + 1])
  else
    redis.call('SET', KEYS[rules + 1], when .. ' ' .. cameto, 'KEEPTTL')
  end
end
for i = 1, rules do
  local n = 3 + (i - 1) * 5
  local key, kind, most, span = KEYS[i], ARGV[n + 1], tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3])
  local cost, add = tonumber(ARGV[n + 4]), tonumber(ARGV[n + 5])
  if kind == 'l' then add = math.max(add, 0) end -- others have the turns behind it already
  if kind == 't' or kind == 'l' then
    local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) + add * span
    tat = math.min(tat, now + 16 * most * span)
    if tat <= now then redis.call('DEL', key) else redis.call('SET', key, num(tat), 'PXAT', at(tat)) end
  elseif kind == 'f' or kind == 'c' then
    local start, cur, prev = window(kind, key, most, span)
    local s = math.floor(taken / span) * span
    if s == start then
      setwindow(kind, key, span, start, math.max(cur + add, 0), prev)
    elseif kind == 'c' and s == start - span then
      setwindow(kind, key, span, start, cur, math.max(prev + add, 0))
    end
  else
    local m = num(cost) .. ' ' .. id
    local till = redis.call('ZSCORE', key, m)
    if kind == 'n' then add = -cost end
    if till and tonumber(till) > now then
      local sum = total(key) + add
      redis.call('ZREM', key, m)
      if cost + add > 0 then redis.call('ZADD', key, till, num(cost + add) .. ' ' .. id) end
      settotal(key, sum)
    end
  end
end
return {1}
