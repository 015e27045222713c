-- Counts the instances that were here lately. KEYS[1]: a sorted set of instances by when they were here,
-- in milliseconds of this server's clock. ARGV: this instance, and how long one counts.
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local known = redis.pcall('ZADD', KEYS[1], now, ARGV[1])
if type(known) == 'table' and known.err and known.err:find('WRONGTYPE', 1, true) then
  redis.call('DEL', KEYS[1])
  known = redis.pcall('ZADD', KEYS[1], now, ARGV[1])
end
if type(known) == 'table' then return known end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
