-- Counts the instances that were here lately. KEYS[1]: a sorted set of instances by when they were here,
-- in milliseconds of this server's clock. ARGV[1]: this instance, and how long one counts.
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local instance, life = ARGV[1]:match('^(%S+) (%d+)')
local known = redis.pcall('ZADD', KEYS[1], now, instance)
if type(known) == 'table' and known.err and known.err:find('WRONGTYPE', 1, true) then
  redis.call('DEL', KEYS[1])
  known = redis.pcall('ZADD', KEYS[1], now, instance)
end
if type(known) == 'table' then return known end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
redis.call('PEXPIRE', KEYS[1], life)
return tostring(redis.call('ZCARD', KEYS[1]))
