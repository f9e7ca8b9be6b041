-- get.lua: a value and the token with which it was written.
-- KEYS[1] as in put.lua
-- Returns {token, 0 if there is none; value}
-- It writes nothing.
return {tonumber(redis.call('HGET', KEYS[1], 'token') or '0'), redis.call('HGET', KEYS[1], 'value') or ''}
