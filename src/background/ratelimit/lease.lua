-- Lends tokens of a key, and settles what was lent before. KEYS[1]: the key. ARGV: how long a slot of time
-- is, in microseconds; the slot of the asker's leases, the tokens that it held, those of them that it
-- gives back and those that it keeps; tokens to pay, there or not; the least that is of use, what is waited
-- for, and what is wanted; the number of instances. Then for each window nanoseconds: what a token takes
-- to come back, how deep the bucket is, and the greatest debt. Answers with the tokens lent, their slot, and
-- the debts.
--
-- The value begins as count.lua writes it. Behind the semicolon stand a slot and the tokens that were lent in
-- it and in the one before, and not settled yet. No debt falls below what these are worth: a bucket does
-- not fill up with what is only lent. Leases are forgotten when two slots are over, and nobody uses one for
-- longer than one.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local length = tonumber(ARGV[1])
local current = math.floor(now / length)
local value = redis.pcall('GET', KEYS[1])
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
for at = 11, #ARGV, 3 do
  local index = #debts + 1
  intervals[index], depths[index], most[index] = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  debts[index] = left(math.min(numbers[index + 1] or 0, most[index]), intervals[index])
end
if current > slot then
  if current == slot + 1 then older = newer else older = 0 end
  slot, newer = current, 0
end
local held, back, keep, pay = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local known = 0
if tonumber(ARGV[2]) == slot then
  known = math.min(held, newer)
  newer = newer - known
elseif tonumber(ARGV[2]) == slot - 1 then
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
local least, needed, wanted = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local lent = 0
if free > 0 and free >= least then
  local fair = math.floor(free / (2 * tonumber(ARGV[10])))
  lent = math.min(free, math.max(needed, math.min(wanted, math.max(1, fair))))
end
newer = newer + lent
local words, longest = { string.format('%.0f', now) }, 0
for index = 1, #debts do
  debts[index] = debts[index] + lent * intervals[index]
  longest = math.max(longest, debts[index])
  words[index + 1] = string.format('%.0f', debts[index])
end
local life = math.ceil(longest / 1000000) + 1
local text = table.concat(words, ' ')
if newer + older > 0 then
  life = math.max(life, math.ceil(((slot + 2) * length - now) / 1000) + 1)
  text = text .. string.format(';%.0f %.0f %.0f', slot, newer, older)
end
if longest > 0 then
  redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', life))
elseif value then
  redis.call('DEL', KEYS[1])
end
return { lent, slot, unpack(debts) }
