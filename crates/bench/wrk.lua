-- wrk's requests: GET of BENCH_PATH with each key of the file BENCH_KEYS in turn, or at random with
-- BENCH_ORDER=random. With BENCH_REQUESTS it stops after so many. Keys come by a file, since
-- arguments are public.
--
-- Prints one line of JSON: requests, seconds, failed (answers that are no 200).

local texts, order, limit = {}, os.getenv("BENCH_ORDER"), tonumber(os.getenv("BENCH_REQUESTS"))
local sent, next_key = 0, 0

function init()
  -- LuaJIT hashes a long string by a few of its characters, those in its middle among them. There
  -- the key must be, or a hundred thousand requests are one chain, which takes minutes to make.
  local head = "GET " .. os.getenv("BENCH_PATH") .. " HTTP/1.1\r\nHost: gateway.example.com\r\nAuthorization: ApiKey "
  local tail = "\r\nX-Peer-Key: " .. os.getenv("BENCH_PEER_KEY") ..
    "\r\nAccept: */*\r\nUser-Agent: wrk\r\n\r\n"
  for key in io.lines(os.getenv("BENCH_KEYS")) do
    texts[#texts + 1] = head .. key .. tail
  end
  math.randomseed(tonumber(os.getenv("BENCH_SEED")) or 1)
end

function request()
  if order == "random" then
    return texts[math.random(#texts)]
  end
  next_key = next_key % #texts + 1
  return texts[next_key]
end

if limit then
  function response()
    sent = sent + 1
    if sent == limit then
      wrk.thread:stop()
      -- wrk itself sleeps until its time is over, unless its parent process ends it.
      io.write("enough\n")
      io.flush()
    end
  end
end

function done(summary)
  local errors = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%.6f,"failed":%d}\n',
    summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
