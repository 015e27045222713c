-- Sends requests for two paths by turns, with so many keys in turn, and reports as report.lua does; before that, one
-- line of JSON says how many requests each turn had. A turn is a span of the system's monotonic clock, so that
-- whoever reads what the proxy used finds the same ones. Arguments: keys, seconds of a turn, the paths.
-- Where report.lua is: the environment variable REPORT.

dofile(os.getenv("REPORT"))

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanos; } spec; int clock_gettime(int, spec *);")
local MONOTONIC = 1

local spec = ffi.new("spec")
local requests = { {}, {} }
local place = 0
local length
local threads = {}
turns = {}

setup = function(thread)
  threads[#threads + 1] = thread
end

init = function(arguments)
  length = tonumber(arguments[2])
  for side = 1, 2 do
    for number = 1, tonumber(arguments[1]) do
      local headers = { ["X-Key"] = "key" .. number }
      requests[side][number] = wrk.format("GET", arguments[2 + side], headers)
    end
  end
end

request = function()
  ffi.C.clock_gettime(MONOTONIC, spec)
  local turn = math.floor((tonumber(spec.seconds) + tonumber(spec.nanos) / 1e9) / length)
  turns[turn] = (turns[turn] or 0) + 1
  -- First and second, second and first: what happens now and then must not always meet the same one.
  local side = requests[(turn + math.floor(turn / 2)) % 2 + 1]
  place = place % #side + 1
  return side[place]
end

local report = done

done = function(...)
  local all = {}
  for _, thread in ipairs(threads) do
    for turn, count in pairs(thread:get("turns")) do
      all[turn] = (all[turn] or 0) + count
    end
  end
  local parts = {}
  for turn, count in pairs(all) do
    parts[#parts + 1] = string.format('"%d":%d', turn, count)
  end
  io.write("{", table.concat(parts, ","), "}\n")
  report(...)
end
