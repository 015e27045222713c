-- Lends tokens of each key, and settles what was lent before. KEYS: the keys. ARGV: a line for each: how long a slot
-- of time is, in microseconds; the slot of the asker's leases, the tokens that it held, those that it gives back, of
-- these and of what was settled, and those that it keeps; tokens to pay, there or not; the least that is of use, what is waited
-- for, and what is wanted; the number of instances. Then for each window nanoseconds: what a token takes
-- to come back, how deep the bucket is, and the greatest debt. Answers with a line for each key: the tokens lent, their
-- slot, and the debts.
--
-- The value begins as count.lua writes it. Behind the semicolon stand a slot and the tokens that were lent in
-- it and in the one before, and not settled yet. No debt falls below what these are worth: a bucket does
-- not fill up with what is only lent. Leases are forgotten when two slots are over, and nobody uses one for
-- longer than one.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function lend(key, line)
  local told = {}
  for number in line:gmatch('%d+') do
    told[#told + 1] = tonumber(number)
  end
  local length, asked, held, back, keep, pay = unpack(told, 1, 6)
  local least, needed, wanted, instances = unpack(told, 7, 10)
  local current = math.floor(now / length)
  local value = redis.pcall('GET', key)
  local numbers, slot, newer, older = {}, current, 0, 0
  if type(value) == 'string' then
    local own, rest = value:match('^([%d ]+)(;?[%d ]*)$')
    for number in (own or ''):gmatch('%d+') do
      numbers[#numbers + 1] = tonumber(number)
    end
    local a, b, c = (rest or ''):match('^;(%d+) (%d+) (%d+)$')
    if a then slot, newer, older = tonumber(a), tonumber(b), tonumber(c) end
  end
  -- A clock that was set back: what was lent then counts as lent now.
  if slot > current then slot, newer, older = current, newer + older, 0 end
  local from = math.min(now, numbers[1] or now)
  local stops = { (slot + 1) * length, (slot + 2) * length, now }
  local floors = { newer + older, newer, 0 }
  local function left(debt, interval)
    local moment = from
    for part = 1, 3 do
      local stop = math.min(now, stops[part])
      if stop > moment then
        debt = math.max(debt - (stop - moment) * 1000, math.min(debt, floors[part] * interval))
        moment = stop
      end
    end
    return debt
  end
  local intervals, depths, most, debts = {}, {}, {}, {}
  for at = 11, #told, 3 do
    local index = #debts + 1
    intervals[index], depths[index], most[index] = told[at], told[at + 1], told[at + 2]
    debts[index] = left(math.min(numbers[index + 1] or 0, most[index]), intervals[index])
  end
  if current > slot then
    if current == slot + 1 then older = newer else older = 0 end
    slot, newer = current, 0
  end
  local known = 0
  if asked == slot then
    known = math.min(held, newer)
    newer = newer - known
  elseif asked == slot - 1 then
    known = math.min(held, older)
    older = older - known
  end
  if known < held then
    -- The value was lost meanwhile: what is kept has to be paid again, and nothing is given back.
    pay = pay + math.min(keep, held - known)
    back = 0
  end
  newer = newer + keep
  local free = math.huge
  for index = 1, #debts do
    local debt = math.max(0, debts[index] - back * intervals[index])
    -- What somebody holds stays owed.
    debt = math.max(debt, math.min(debts[index], (newer + older) * intervals[index]))
    debt = math.max(debt, math.min(debt + pay * intervals[index], most[index]))
    debts[index] = debt
    free = math.min(free, math.floor((depths[index] - debt) / intervals[index]))
  end
  local lent = 0
  if free > 0 and free >= least then
    local fair = math.floor(free / (2 * instances))
    lent = math.min(free, math.max(needed, math.min(wanted, math.max(1, fair))))
  end
  newer = newer + lent
  local words, longest = {}, 0
  for index = 1, #debts do
    debts[index] = debts[index] + lent * intervals[index]
    longest = math.max(longest, debts[index])
    words[index] = string.format('%.0f', debts[index])
  end
  local life = math.ceil(longest / 1000000) + 1
  local text = table.concat(words, ' ')
  local answer = string.format('%.0f %.0f %s', lent, slot, text)
  text = string.format('%.0f %s', now, text)
  if newer + older > 0 then
    life = math.max(life, math.ceil(((slot + 2) * length - now) / 1000) + 1)
    text = text .. string.format(';%.0f %.0f %.0f', slot, newer, older)
  end
  if longest > 0 then
    redis.call('SET', key, text, 'PX', string.format('%.0f', life))
  elseif value then
    redis.call('DEL', key)
  end
  return answer
end
local answers = {}
for index, key in ipairs(KEYS) do
  answers[index] = lend(key, ARGV[index])
end
return table.concat(answers, '\n')
