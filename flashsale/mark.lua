-- mark.lua: whether a sale is sold out, and who must not be told so.
-- KEYS[1] permits, KEYS[2] spent, KEYS[3] gate
-- ARGV    1 the version that the caller knows, 2 the spent deadline up to which it knows, in µs,
--         3 most ids to return
-- Returns {outcome, version, spent deadline known now, ids of live permits, ids of spent ones}
--   0 no gate, or not open   1 units are free   2 sold out, the ids differ   3 sold out, same ids
--   4 sold out, with more ids than wanted
-- Clock: the engine's. It writes nothing.
local gate = {
  redis.call('HGET', KEYS[3], 'state'),
  redis.call('HGET', KEYS[3], 'cap'),
  redis.call('HGET', KEYS[3], 'version')}
if gate[1] ~= 'open' then return {0, 0, 0, {}, {}} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local version = tonumber(gate[3])
local live = redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf')
if live < tonumber(gate[2]) then return {1, version, 0, {}, {}} end
if live + redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[2], '+inf') > tonumber(ARGV[3]) then
  return {4, version, 0, {}, {}}
end
-- At the deadline that is known there may be more than the caller has seen.
local spent = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[2], '+inf')
local known = tonumber(ARGV[2])
if #spent > 0 then
  known = tonumber(redis.call('ZSCORE', KEYS[2], spent[#spent]))
end
if version == tonumber(ARGV[1]) then return {3, version, known, {}, spent} end
return {2, version, known, redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf'), spent}
