-- Counts every answer by status and judges a wrk run: only 2xx is a success.
-- MAX_ERROR_RATE (a share) and MAX_P99_MS are the thresholds; VERDICT_FILE receives pass or fail.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  succeeded = 0
  refused = 0
  first_refusal = 0
end

function response(status)
  if status >= 200 and status < 300 then
    succeeded = succeeded + 1
  else
    refused = refused + 1
    if first_refusal == 0 then
      first_refusal = status
    end
  end
end

local function total(name)
  local sum = 0
  for _, thread in ipairs(threads) do
    sum = sum + thread:get(name)
  end
  return sum
end

local function first_status()
  for _, thread in ipairs(threads) do
    if thread:get("first_refusal") ~= 0 then
      return string.format(" (the first was a %d)", thread:get("first_refusal"))
    end
  end
  return ""
end

local function judge(name, measured, limit)
  local held = measured <= limit
  io.write(string.format("%-12s %10.4f  limit %.4f  %s\n", name, measured, limit, held and "ok" or "EXCEEDED"))
  return held
end

function done(summary, latency)
  local errors = summary.errors
  local succeeded, refused = total("succeeded"), total("refused")
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local attempted = succeeded + refused + broken
  local rate = attempted > 0 and (refused + broken) / attempted or 1

  io.write(string.format("\nrequests     %d, of them 2xx %d, %.0f/s\n", attempted, succeeded, succeeded / summary.duration * 1e6))
  io.write(string.format("other status %d%s\n", refused, first_status()))
  io.write(string.format("connections  connect %d, read %d, write %d, timeout %d\n", errors.connect, errors.read, errors.write, errors.timeout))
  for _, percentile in ipairs({ 50, 75, 90, 95, 99, 99.9 }) do
    io.write(string.format("p%-10s %10.3f ms\n", tostring(percentile), latency:percentile(percentile) / 1000))
  end

  local passed = judge("error rate", rate, tonumber(os.getenv("MAX_ERROR_RATE")))
  -- Without a success there is no latency worth judging.
  passed = judge("p99 ms", latency:percentile(99) / 1000, tonumber(os.getenv("MAX_P99_MS"))) and passed and succeeded > 0

  local file = assert(io.open(os.getenv("VERDICT_FILE"), "w"))
  file:write(passed and "pass\n" or "fail\n")
  file:close()
end
