-- begin.lua: stands before acquire and release.
-- KEYS[1] mark     highest token or ticket of the bucket; it never expires
-- KEYS[2] held     owner -> "token weight of deadline since end who"
-- KEYS[3] queue    owner of a waiter -> ticket
-- KEYS[4] waiters  owner -> "weight of alive ttl hold who\nchannel"
-- KEYS[5] names    name -> end of its newest lease, for the whole bucket
-- ARGV[1] name, [2] owner
-- Times are µs by the engine's clock.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
