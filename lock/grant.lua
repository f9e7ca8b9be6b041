-- grant.lua: what acquire and release share where a name is held or waited for.
local mark, held, queue, waiters, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function num(n) return string.format('%.0f', n) end
local function at(us) return num(math.ceil(us / 1000)) end

-- used: permits of leases that live; of: of how many; soonest: when the first of them ends;
-- last: when the longest may end. Leases that have ended are removed.
local used, of, soonest, last = 0, 0, 0, 0
local function scan()
  local all = redis.call('HGETALL', held)
  for i = 1, #all, 2 do
    local _, w, o, d, _, e = string.match(all[i + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ')
    w, o, d, e = tonumber(w), tonumber(o), tonumber(d), tonumber(e)
    if d <= now then
      redis.call('HDEL', held, all[i])
    else
      used, of, last = used + w, o, math.max(last, e)
      if soonest == 0 or d < soonest then soonest = d end
    end
  end
end

local function draw()
  local n = math.max(tonumber(redis.call('GET', mark) or '0') + 1, now)
  redis.call('SET', mark, num(n))
  return n
end

local function lease(name, owner, w, o, ttl, hold, who)
  local token, stop = draw(), now + hold
  local deadline = math.min(now + ttl, stop)
  redis.call('HSET', held, owner, num(token) .. ' ' .. num(w) .. ' ' .. num(o) .. ' ' .. num(deadline) .. ' ' ..
    num(now) .. ' ' .. num(stop) .. ' ' .. who)
  used, of, last = used + w, o, math.max(last, stop)
  if soonest == 0 or deadline < soonest then soonest = deadline end
  redis.call('PEXPIREAT', held, at(last))
  redis.call('ZADD', names, num(last), name)
  if token % 64 == 0 then redis.call('ZREMRANGEBYSCORE', names, '-inf', num(now)) end
  return token, deadline
end

-- grant gives what is free to those who have waited longest, and passes over those who died.
local function grant(name)
  for _ = 1, 100 do
    local head = redis.call('ZRANGEBYSCORE', queue, '-inf', '+inf', 'LIMIT', 0, 1)[1]
    if not head then return end
    local v = redis.call('HGET', waiters, head)
    local w, o, alive, ttl, hold, who, channel
    if v then w, o, alive, ttl, hold, who, channel = string.match(v, '^(%d+) (%d+) (%d+) (%d+) (%d+) ([^\n]*)\n(.*)$') end
    if not v or tonumber(alive) <= now then
      redis.call('ZREM', queue, head)
      redis.call('HDEL', waiters, head)
    else
      w, o = tonumber(w), tonumber(o)
      if used > 0 and (o ~= of or used + w > of) then return end
      redis.call('ZREM', queue, head)
      redis.call('HDEL', waiters, head)
      local token = lease(name, head, w, o, tonumber(ttl), tonumber(hold), who)
      redis.call('PUBLISH', channel, head .. ' ' .. num(token))
    end
  end
end
