-- take.lua (behind meter.lua): take units from every rule, or from none.
-- KEYS    one a rule; behind them, where units are reserved, the record of the reservation
-- ARGV    1 mode: 0 take, 1 only look, 2 reserve, 3 renew what was reserved; 2 id of the call; 3 life of the record, µs;
--         then five a rule: kind, most units, span (µs: of one unit, of the window, of a lease), units wanted,
--         1 if it is a shadow, which never refuses
-- Returns {outcome, when taken µs, four a rule: 1 if it refuses, units left, wait µs, µs until more is left}
--   0 refused, nothing written   1 taken   2 reserved before   3 reserved and settled before   4 not reserved
--   wait: until it would not refuse; of kind l, if it does not, until the caller's turn
-- Clock: the engine's. Retry: safe, with an entry or a record of its id it takes once; otherwise it may take
-- twice, it never admits too much.
local mode, id = ARGV[1], ARGV[2]
local kinds, mosts, spans, costs, mine, a, b, c = {}, {}, {}, {}, {}, {}, {}, {}
local outcome, taken, record = 1, now, nil
local rules = (#ARGV - 3) / 5
if mode == '2' or mode == '3' then
  record = redis.call('GET', KEYS[rules + 1])
  if record then
    local when, settled = string.match(record, '^(%d+) ?(.*)$')
    taken = tonumber(when)
    if settled ~= '' then outcome = 3 elseif mode == '2' then outcome = 2 end
  elseif mode == '3' then
    outcome = 4
  end
end

-- load reads a rule's state into a, b and c.
local function load(i, key)
  local kind, most, span = kinds[i], mosts[i], spans[i]
  if kind == 't' or kind == 'l' then
    a[i] = math.max(tonumber(redis.call('GET', key) or '0'), now)
  elseif kind == 'f' or kind == 'c' then
    a[i], b[i], c[i] = window(kind, key, most, span)
  else
    local gone = 0
    for _, m in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', num(now))) do gone = gone + weight(m) end
    a[i] = total(key) - gone
    local till = redis.call('ZSCORE', key, num(costs[i]) .. ' ' .. id)
    mine[i] = till and tonumber(till) > now
  end
end

-- left is how many units could be taken.
local function left(i)
  local kind, most, span = kinds[i], mosts[i], spans[i]
  local n
  if kind == 't' or kind == 'l' then
    n = most - math.ceil((a[i] - now) / span)
  elseif kind == 'f' then
    n = most - b[i]
  elseif kind == 'c' then
    n = most - b[i] - math.ceil(c[i] * math.ceil((a[i] + span - now) / 1000) / (span / 1000))
  else
    n = most - a[i]
  end
  return math.max(n, 0)
end

-- wait is how long it takes until so many units can be taken, 0 if they can now.
local function wait(i, key, cost)
  local kind, most, span = kinds[i], mosts[i], spans[i]
  if kind == 't' or kind == 'l' then
    return math.max(a[i] + cost * span - now - most * span, 0)
  end
  local rest = a[i] + span - now
  if kind == 'f' then return b[i] + cost > most and rest or 0 end
  if kind == 'c' then
    local w = span / 1000
    if b[i] + cost <= most then
      if c[i] * math.ceil(rest / 1000) + (b[i] + cost) * w <= most * w then return 0 end
      return rest - math.floor((most - b[i] - cost) * w / c[i]) * 1000
    end
    return rest + span - math.floor((most - cost) * w / b[i]) * 1000
  end
  local need = a[i] + cost - most
  if need <= 0 then return 0 end
  local all = redis.call('ZRANGEBYSCORE', key, '(' .. num(now), LATEST, 'WITHSCORES', 'LIMIT', 0, num(need))
  for k = 1, #all, 2 do
    need = need - weight(all[k])
    if need <= 0 then return all[k + 1] - now end
  end
  return span
end

local function take(i, key)
  local kind, span, cost = kinds[i], spans[i], costs[i]
  if kind == 't' or kind == 'l' then
    a[i] = a[i] + cost * span
    redis.call('SET', key, num(a[i]), 'PXAT', at(a[i]))
  elseif kind == 'f' or kind == 'c' then
    b[i] = b[i] + cost
    setwindow(kind, key, span, a[i], b[i], c[i])
  elseif not mine[i] or kind == 'n' then
    if not mine[i] then a[i] = a[i] + cost end
    redis.call('ZREMRANGEBYSCORE', key, '-inf', num(now))
    redis.call('ZADD', key, num(now + span), num(cost) .. ' ' .. id)
    settotal(key, a[i])
    redis.call('PEXPIREAT', key, at(now + (kind == 's' and span or 3600000000)))
  end
end

local out, refuses = {}, {}
for i = 1, rules do
  local n = 3 + (i - 1) * 5
  kinds[i], mosts[i], spans[i], costs[i] = ARGV[n + 1], tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3]), tonumber(ARGV[n + 4])
  load(i, KEYS[i])
  local w = mine[i] and 0 or wait(i, KEYS[i], costs[i])
  refuses[i] = w > 0 or mode == '3' and not mine[i]
  out[i * 4 - 1] = w
  if w == 0 and kinds[i] == 'l' then out[i * 4 - 1] = a[i] - now end
  if refuses[i] and ARGV[n + 5] == '0' and outcome == 1 then outcome = 0 end
end
for i = 1, rules do
  if outcome == 1 and mode ~= '1' and not refuses[i] then take(i, KEYS[i]) end
  out[i * 4 - 3] = refuses[i] and 1 or 0
  local n = left(i)
  out[i * 4 - 2] = n
  out[i * 4] = n < mosts[i] and wait(i, KEYS[i], n + 1) or 0
end
if (mode == '2' or mode == '3') and outcome == 1 then
  redis.call('SET', KEYS[rules + 1], num(taken), 'PXAT', at(now + ARGV[3]))
end
return {outcome, taken, out}
