-- GCRA on all windows of each key at once. KEYS: the keys. ARGV: a line for each. It begins with take, charge or give.
-- Then for each window three numbers of nanoseconds: what the cost takes to come back, how deep the bucket is,
-- and the greatest debt. Answers with a line for each key: 1 or 0, and the debts.
--
-- The value is when it was written, in microseconds of this server's clock, and the debt of each window:
-- what its bucket took to fill from then on. Behind a semicolon stands what leases need.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function count(key, line)
  local value = redis.pcall('GET', key)
  local numbers, leases = {}, ''
  if type(value) == 'string' then
    local own, rest = value:match('^([%d ]+)(;?[%d ]*)$')
    for number in (own or ''):gmatch('%d+') do
      numbers[#numbers + 1] = tonumber(number)
    end
    leases = rest or ''
  end
  -- A clock that was set back gives nothing back and takes nothing away. From then on it is counted from now.
  local written = numbers[1] or now
  local passed = math.max(0, now - written) * 1000
  local action, windows = line:match('^(%a+)(.*)$')
  local steps, mosts, debts, admitted = {}, {}, {}, true
  for step, depth, most in windows:gmatch('(%d+) (%d+) (%d+)') do
    step, depth, most = tonumber(step), tonumber(depth), tonumber(most)
    local index = #debts + 1
    local debt = math.max(0, math.min(numbers[index + 1] or 0, most) - passed)
    steps[index], mosts[index], debts[index] = step, most, debt
    if step > 0 and debt + step > depth then admitted = false end
  end
  local changes, longest = written > now, 0
  for index, debt in ipairs(debts) do
    local after = debt
    if action == 'give' then
      after = math.max(0, debt - steps[index])
    elseif action == 'charge' or admitted then
      after = math.min(debt + steps[index], mosts[index])
    end
    changes = changes or after ~= debt
    debts[index] = after
    longest = math.max(longest, after)
  end
  local words = {}
  for index, debt in ipairs(debts) do
    words[index] = string.format('%.0f', debt)
  end
  local text = table.concat(words, ' ')
  if changes then
    local life = string.format('%.0f', math.ceil(longest / 1000000) + 1)
    redis.call('SET', key, string.format('%.0f %s%s', now, text, leases), 'PX', life)
  end
  return (admitted and '1 ' or '0 ') .. text
end
local answers = {}
for index, key in ipairs(KEYS) do
  answers[index] = count(key, ARGV[index])
end
return table.concat(answers, '\n')
