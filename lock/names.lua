-- names.lua: names of one bucket that are leased, or were not long ago.
-- KEYS[1] names, as in begin.lua
-- ARGV    1 least end, µs, 2 most names
-- Returns {names by their end, then by their bytes}
-- It writes nothing.
return {redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])}
