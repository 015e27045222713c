-- Sends a request with each token of a file (the first argument) in turn, and reports as report.lua does.
-- Where that is: the environment variable REPORT.

dofile(os.getenv("REPORT"))

local requests = {}
local place = 0

init = function(arguments)
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, { Authorization = "Bearer " .. token })
  end
end

request = function()
  place = place % #requests + 1
  return requests[place]
end
