-- GCRA on all windows of a key at once. KEYS[1]: the key. ARGV[1]: take, charge or give. Then for each
-- window three numbers of nanoseconds: what the cost takes to come back, how deep the bucket is, and the
-- greatest debt. Answers with 1 or 0 and the debts.
--
-- The value is when it was written, in microseconds of this server's clock, and the debt of each window:
-- what its bucket took to fill from then on. Behind a semicolon stands what leases need.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local value = redis.pcall('GET', KEYS[1])
local numbers, leases = {}, ''
if type(value) == 'string' then
  local own, rest = value:match('^([%d ]+)(;?[%d ]*)$')
  for number in (own or ''):gmatch('%d+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  leases = rest or ''
end
-- A clock that was set back gives nothing back and takes nothing away.
local passed = math.max(0, now - (numbers[1] or now)) * 1000
local action = ARGV[1]
local debts, admitted = {}, true
for at = 2, #ARGV, 3 do
  local step, depth, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local index = #debts + 1
  local debt = math.max(0, math.min(numbers[index + 1] or 0, most) - passed)
  debts[index] = debt
  if step > 0 and debt + step > depth then admitted = false end
end
local changes, longest = false, 0
if admitted or action ~= 'take' then
  for index = 1, #debts do
    local at = index * 3 - 1
    local step, most = tonumber(ARGV[at]), tonumber(ARGV[at + 2])
    local debt = debts[index]
    if action == 'give' then
      debt = math.max(0, debt - step)
    else
      debt = math.min(debt + step, most)
    end
    changes = changes or debt ~= debts[index]
    debts[index] = debt
    longest = math.max(longest, debt)
  end
end
if changes then
  local words = { string.format('%.0f', now) }
  for index = 1, #debts do
    words[index + 1] = string.format('%.0f', debts[index])
  end
  local life = string.format('%.0f', math.ceil(longest / 1000000) + 1)
  redis.call('SET', KEYS[1], table.concat(words, ' ') .. leases, 'PX', life)
end
return { admitted and 1 or 0, unpack(debts) }
