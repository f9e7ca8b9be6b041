-- lease.lua (behind meter.lua): a process gives back units of a rule's budget and leases others.
-- KEYS    1 the rule's state; 2 the process' record: a string "seq epoch granted back", units as sums since the epoch
-- ARGV    1 kind (t, f or c), 2 most units, 3 span (µs), 4 seq of the request, 5 epoch of the last answer (µs), units in
--         that epoch: 6 granted, as far as answers came, 7 given back; units: 8 it keeps, 9 wanted; 10 it holds at most
--         one part in so many; 11 life of a lease, µs (0: it ends with the key, the record goes)
-- Returns {1 if a later request was decided before (nothing written), units granted, epoch, life µs, units left,
--          µs until more is left, µs until a share of the whole is left}
-- Clock: the engine's. Retry: safe, by seq; what an answer that was lost had granted is given back by the next request.
local kind, most, span = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local seq, epoch, known, back = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local held, want, parts, life = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local key = KEYS[1]
local record = redis.call('GET', KEYS[2])
local hadseq, hadepoch, hadgranted, hadback
if record then
  hadseq, hadepoch, hadgranted, hadback = string.match(record, '^(%d+) (%d+) (%d+) (%d+)$')
  hadseq, hadepoch, hadgranted, hadback = tonumber(hadseq), tonumber(hadepoch), tonumber(hadgranted), tonumber(hadback)
  if seq <= hadseq then return {1, 0, 0, 0, 0, 0, 0} end
end
local empty, start, cur, prev
if kind == 't' then
  empty = math.max(tonumber(redis.call('GET', key) or '0'), now)
else
  start, cur, prev = window(kind, key, most, span)
end
local newepoch = start or hadepoch or now

-- add takes units, or gives back some that were taken at some time (n < 0).
local function add(n, at_)
  if kind == 't' then
    empty = math.min(empty + n * span, now + 16 * most * span)
    if empty <= now then
      empty = now
      redis.call('DEL', key)
    else
      redis.call('SET', key, num(empty), 'PXAT', at(empty))
    end
    return
  end
  local s = math.floor(at_ / span) * span
  if s == start then
    cur = math.max(cur + n, 0)
  elseif kind == 'c' and s == start - span then
    prev = math.max(prev + n, 0)
  else
    return
  end
  setwindow(kind, key, span, start, cur, prev)
end

local function left()
  local n
  if kind == 't' then
    n = most - math.ceil((empty - now) / span)
  elseif kind == 'f' then
    n = most - cur
  else
    n = most - cur - math.ceil(prev * math.ceil((start + span - now) / 1000) / (span / 1000))
  end
  return math.max(n, 0)
end

-- wait is how long it takes until so many units can be taken.
local function wait(n)
  if kind == 't' then return math.max(empty + n * span - now - most * span, 0) end
  local rest = start + span - now
  if kind == 'f' then return cur + n > most and rest or 0 end
  local w = span / 1000
  if cur + n > most then return rest + span - math.floor((most - n) * w / cur) * 1000 end
  if prev * math.ceil(rest / 1000) + (cur + n) * w <= most * w then return 0 end
  return rest - math.floor((most - cur - n) * w / prev) * 1000
end

if record then
  local returns = hadgranted - hadback
  if epoch == hadepoch then returns = returns - known + back end
  if returns > 0 then add(-returns, hadepoch) end
end
if epoch ~= newepoch then known, back, held = 0, 0, 0 end
local share = math.floor(most / parts)
if kind == 'f' then share = math.max(math.floor(left() / parts), math.floor(share / 4)) end
local got = math.max(math.min(want, math.max(share, 1) - held, left()), 0)
if got > 0 then
  add(got, now)
  known = known + got
end
local forget = now + 4 * life
if kind ~= 't' then
  life = math.min(life, start + span - now)
  forget = start + 2 * span
end
if ARGV[11] == '0' then
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[2], num(seq) .. ' ' .. num(newepoch) .. ' ' .. num(known) .. ' ' .. num(back), 'PXAT', at(forget))
end
local n = left()
local enough = math.max(math.floor(most / parts), 1)
return {0, got, newepoch, life, n, n < most and wait(n + 1) or 0, n < most and wait(enough) or 0}
