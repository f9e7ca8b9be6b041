-- ops.lua: each operation of store.Tx, said in the engine's commands.
-- KEYS[1] the key, KEYS[2] a second key of the same slot
-- ARGV    1 operation, 2 channel, then the operation's arguments
-- Returns a list of strings; an absent value is "(none)".
local key, other, op, channel = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local a, b, c = ARGV[3], ARGV[4], ARGV[5]
local call = redis.call

local function whole(n) return string.format('%.0f', tonumber(n)) end
local function value(v) return v or '(none)' end
local function number(v) return v and whole(v) or '(none)' end
local function flag(n) return n == 1 and '1' or '0' end

local function now()
  local t = call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- deadline is Until rounded up to milliseconds.
local function deadline(us) return whole(math.ceil(us / 1000)) end

local function set(k, v, expiry)
  if expiry == 'keep' then return call('SET', k, v, 'KEEPTTL') end
  if expiry == 'forever' then return call('SET', k, v) end
  return call('SET', k, v, 'PXAT', deadline(now() + tonumber(expiry)))
end

local function expire(k, expiry)
  if expiry == 'keep' then return call('EXISTS', k) end
  if expiry == 'forever' then
    call('PERSIST', k)
    return call('EXISTS', k)
  end
  return call('PEXPIREAT', k, deadline(now() + tonumber(expiry)))
end

local ops = {}
function ops.type() return {call('TYPE', key).ok} end
function ops.get() return {value(call('GET', key))} end
function ops.set() set(key, a, b) return {} end
function ops.int() return {whole(call('GET', key) or 0)} end
function ops.incr() return {whole(call('INCRBY', key, a))} end
function ops.del() return {whole(call('DEL', key, other))} end
function ops.expire() return {flag(expire(key, a))} end
function ops.deadline()
  local ms = call('PTTL', key)
  if ms < 0 then return {'(none)'} end
  return {whole(math.floor(now() / 1000) + ms)}
end
function ops.hget() return {value(call('HGET', key, a))} end
function ops.hint() return {whole(call('HGET', key, a) or 0)} end
function ops.hset() call('HSET', key, a, b) return {} end
function ops.hincr() return {whole(call('HINCRBY', key, a, b))} end
function ops.hdel() return {whole(call('HDEL', key, a, b))} end
function ops.hlen() return {whole(call('HLEN', key))} end
function ops.hall()
  local flat, pairs_ = call('HGETALL', key), {}
  for i = 1, #flat, 2 do pairs_[#pairs_ + 1] = flat[i] .. '=' .. flat[i + 1] end
  table.sort(pairs_)
  return pairs_
end
function ops.zadd() return {flag(call('ZADD', key, a, b))} end
function ops.zscore() return {number(call('ZSCORE', key, a))} end
function ops.zrem() return {whole(call('ZREM', key, a, b))} end
function ops.zcard() return {whole(call('ZCARD', key))} end
function ops.zcount() return {whole(call('ZCOUNT', key, a, b))} end
function ops.zrange()
  local flat, out = call('ZRANGEBYSCORE', key, a, b, 'WITHSCORES', 'LIMIT', 0, c), {}
  for i = 1, #flat, 2 do out[#out + 1] = flat[i] .. '=' .. whole(flat[i + 1]) end
  return out
end
function ops.zremrange() return {whole(call('ZREMRANGEBYSCORE', key, a, b))} end
function ops.notify() call('PUBLISH', channel, a) return {} end
return {ops[op]()}
