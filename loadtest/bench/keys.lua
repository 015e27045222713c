-- Sends requests with so many keys (the first argument) in turn, and reports as report.lua does.
-- Where that is: the environment variable REPORT.

dofile(os.getenv("REPORT"))

local requests = {}
local place = 0

init = function(arguments)
  for number = 1, tonumber(arguments[1]) do
    requests[number] = wrk.format("GET", nil, { ["X-Key"] = "key" .. number })
  end
end

request = function()
  place = place % #requests + 1
  return requests[place]
end
