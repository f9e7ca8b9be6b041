-- put.lua: write a value, unless a newer lease has written it.
-- KEYS[1] hash: token, owner, value
-- ARGV    1 token, 2 owner, 3 value, 4 life in µs
-- Returns {1 written, or 0; the token that the value has now}
-- Clock: the engine's, for the life only. Retry: safe, the same fence passes again.
local had = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
local token = tonumber(ARGV[1])
if token < had or (token == had and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2]) then return {0, had} end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'owner', ARGV[2], 'value', ARGV[3])
local t = redis.call('TIME')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil((t[1] * 1000000 + t[2] + ARGV[4]) / 1000)))
return {1, token}
