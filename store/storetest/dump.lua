-- dump.lua: all that some keys of one slot hold, to be compared.
-- KEYS[1] a key of the slot; ARGV the keys, any number
-- Returns for each key: key, type, deadline in ms or "forever", number of items, items.
-- Hashes come as field, value in the engine's order; sets as member, score by score.
-- Clock: the engine's. Writes nothing.
local t = redis.call('TIME')
local ms = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local out = {}

local function put(v) out[#out + 1] = v end
local function put_all(list)
  put(tostring(#list))
  for _, v in ipairs(list) do put(v) end
end

for _, key in ipairs(ARGV) do
  local kind, ttl = redis.call('TYPE', key).ok, redis.call('PTTL', key)
  put(key)
  put(kind)
  put(ttl < 0 and 'forever' or string.format('%.0f', ms + ttl))
  if kind == 'string' then
    put_all({redis.call('GET', key)})
  elseif kind == 'hash' then
    put_all(redis.call('HGETALL', key))
  elseif kind == 'zset' then
    local list = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 2, #list, 2 do list[i] = string.format('%.0f', tonumber(list[i])) end
    put_all(list)
  else
    put_all({})
  end
end
return {out}
