-- Forward auth for HAProxy: asks `apikeys serve` about a request and applies the answer (docs/install/haproxy.md).
-- Sets `txn.apikeys_passed` at its very end: haproxy.cfg refuses every request without it, also after an error here.
--
-- usage in haproxy.cfg: http-request lua.apikeys PATH ADDRESS

local TIMEOUT_MS = 10000
-- Set from the answer, else removed: `authorization`, each name in `headers`, and the three identity headers.
local FROM_ANSWER = { "authorization", "x-api-key", "x-api-key-id", "x-api-key-owner", "x-api-key-name" }
-- Not sent to apikeys serve: headers of the client's connection or of the body.
local NOT_ASKED = { "host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "expect" }
local REFUSALS = { [400] = true, [401] = true, [403] = true, [429] = true, [503] = true }
local OF_REFUSALS = { "content-type", "cache-control", "www-authenticate", "retry-after", "ratelimit", "ratelimit-policy" }

-- The values of a header, from index 1. HAProxy counts them from 0.
local function values(headers, name)
  local found = {}
  for at, value in pairs(headers[name] or {}) do found[at + 1] = value end
  return found
end

local function question(txn)
  local asked, headers = {}, txn.http:req_get_headers()
  for name in pairs(headers) do asked[name] = values(headers, name) end
  asked["x-forwarded-host"] = asked["host"]
  for _, name in ipairs(NOT_ASKED) do asked[name] = nil end
  asked["x-forwarded-method"] = { txn.sf:method() }
  asked["x-forwarded-for"] = { txn.sf:src() }
  return asked
end

local function refuse(txn, answer)
  local reply = txn:reply({ status = answer.status, reason = "Refused" })
  for _, name in ipairs(OF_REFUSALS) do
    for _, value in ipairs(values(answer.headers, name)) do reply:add_header(name, value) end
  end
  reply:set_body(answer.body)
  txn:done(reply)
end

core.register_action("apikeys", { "http-req" }, function(txn, path, address)
  local url = "http://127.0.0.1" .. path
  local answer = core.httpclient():get({ url = url, dst = address, headers = question(txn), timeout = TIMEOUT_MS })
  local headers = answer.headers or {}
  if REFUSALS[answer.status] and headers["apikeys-problem"] then return refuse(txn, answer) end
  -- The HTTP library of apikeys serve answers 400 or 431 to a head that it cannot read.
  if answer.status == 400 or answer.status == 431 then return txn:done(txn:reply({ status = 400 })) end
  if answer.status ~= 200 then return end
  for _, list in ipairs(values(headers, "x-envoy-auth-headers-to-remove")) do
    for name in list:gmatch("[^,%s]+") do txn.http:req_del_header(name) end
  end
  for _, name in ipairs(FROM_ANSWER) do
    txn.http:req_del_header(name)
    for _, value in ipairs(values(headers, name)) do txn.http:req_add_header(name, value) end
  end
  -- HAProxy silently drops a header if its buffer has no room.
  local sent = values(txn.http:req_get_headers(), "authorization")
  txn:set_var("txn.apikeys_passed", table.concat(sent, "\n") == table.concat(values(headers, "authorization"), "\n"))
end, 2)
