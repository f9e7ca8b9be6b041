-- meter.lua: what take.lua and settle.lua share; it stands before each of them.
-- A rule's state is one key. By the rule's kind:
--   t, l  string  when the bucket is empty again, µs
--   f     string  "start of the window, µs; units"
--   c     string  "start of the window, µs; units in it; units in the one before"
--   s, n  zset    "units id" -> when it no longer counts, µs; "" -> 2^53 less all units
-- Times are µs by the engine's clock.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local ALL, LATEST = 9007199254740992, '4503599627370496'
local function num(n) return string.format('%.0f', n) end
local function at(us) return num(math.ceil(us / 1000)) end
local function weight(member) return tonumber(string.match(member, '^(%d+) ')) end

-- total is how many units all entries have, those that no longer count included.
local function total(key)
  local score = redis.call('ZSCORE', key, '')
  return score and ALL - score or 0
end

local function settotal(key, n)
  if n > 0 then redis.call('ZADD', key, num(ALL - n), '') else redis.call('ZREM', key, '') end
end

-- window is the units of a fixed window (0 for what is over), and of the one before.
local function window(kind, key, most, span)
  local start = math.floor(now / span) * span
  local s, cur, prev = string.match(redis.call('GET', key) or '', '^(%d+) (%d+) ?(%d*)$')
  if not s then return start, 0, 0 end
  s, cur, prev = tonumber(s), math.min(tonumber(cur), 16 * most), math.min(tonumber(prev) or 0, 16 * most)
  if s == start then return start, cur, prev end
  if kind == 'c' and s == start - span then return start, 0, cur end
  return start, 0, 0
end

local function setwindow(kind, key, span, start, cur, prev)
  if cur == 0 and prev == 0 then
    redis.call('DEL', key)
  elseif kind == 'f' then
    redis.call('SET', key, num(start) .. ' ' .. num(cur), 'PXAT', at(start + span))
  else
    redis.call('SET', key, num(start) .. ' ' .. num(cur) .. ' ' .. num(prev), 'PXAT', at(start + 2 * span))
  end
end
