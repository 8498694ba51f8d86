-- Asks `apikeys serve` about each request and applies its answer: forwards the token in place of the API key,
-- or refuses. Without a valid answer it refuses.
--
-- Self-contained, so that Kong 3.15 can stream it: it requires no module, and uses only the names of `kong` and
-- `ngx` that Kong documents for `untrusted_lua = lax`. The HTTP client below accepts only the answers of this
-- service.

local kong = kong
local ngx = ngx

local byte = string.byte
local find = string.find
local gmatch = string.gmatch
local gsub = string.gsub
local lower = string.lower
local match = string.match
local sub = string.sub
local concat = table.concat

local Handler = {
  VERSION = "0.1.0",
  -- After key-auth (1250), before ip-restriction (990), acl (950) and rate-limiting (910).
  PRIORITY = 1240,
}

-- The service reads 100 headers. The auth request adds up to five, with the method.
local HEADERS_MAX = 95
local ANSWER_BYTES_MAX = 65536
local READS_MAX = 32
local CONNECT_MS_MAX = 1000
local KEEPALIVE_MS = 60000
-- A kept connection may be closed already, and so may the next one of the pool.
local ATTEMPTS = 3

local IDENTITY = { "x-api-key-id", "x-api-key-owner", "x-api-key-name" }
local IS_IDENTITY = {}
for _, name in ipairs(IDENTITY) do
  IS_IDENTITY[name] = true
end

-- Kong's authentication plugins set these for a consumer. This plugin has no consumer.
local CONSUMER = { "x-consumer-id", "x-consumer-custom-id", "x-consumer-username", "x-anonymous-consumer",
                   "x-credential-identifier" }

-- Not sent to the service: nginx forwards none of these unchanged.
local FRAMING = {
  ["content-length"] = true,
  ["expect"] = true,
  ["keep-alive"] = true,
  ["transfer-encoding"] = true,
}

-- Sent to the service as x-forwarded-<name>, because the auth request has its own. The service refuses a key in
-- any x-forwarded- header, because gateways write those.
local RENAMED = {
  ["connection"] = true,
  ["host"] = true,
  ["te"] = true,
  ["upgrade"] = true,
  ["x-forwarded-method"] = true,
}

local REFUSALS = { [400] = true, [401] = true, [403] = true, [429] = true, [503] = true }
local REFUSAL_HEADERS = {
  "content-type", "cache-control", "www-authenticate", "retry-after", "ratelimit", "ratelimit-policy",
}

local PROBLEM = '{"type":"urn:api-key-gateway:problem:%s","title":"%s","status":%d,"code":"%s","request_id":"%s"}'


local function exit(status, body, headers)
  if find(kong.request.get_header("content-type") or "", "application/grpc", 1, true) == 1 then
    -- Kong adds grpc-status and grpc-message.
    body = nil
    headers["content-type"] = "application/grpc"
  end
  return kong.response.exit(status, body, headers)
end


local function refuse(status, code, title, retry_after)
  local request_id = ngx.var.kong_request_id or ""
  return exit(status, PROBLEM:format(code, title, status, code, request_id), {
    ["content-type"] = "application/problem+json",
    ["cache-control"] = "no-store",
    ["retry-after"] = retry_after,
  })
end


local function refuse_request()
  return refuse(400, "ambiguous_credentials", "The request carries more than one credential")
end


-- Refuses a request without a valid answer, and logs one error line. `reason` never repeats a part of the request.
local function refuse_unanswered(reason)
  kong.log.err("no answer from apikeys serve: ", reason)
  return refuse(503, "identity_provider_unavailable", "The identity provider cannot be asked right now", "5")
end


-- ---- the address ----------------------------------------------------------------------------------

-- Addresses by URL and verification, one for each that the configuration has had.
local targets = {}

local function target_of(conf)
  local pool = conf.url .. (conf.ssl_verify and " verified" or " unverified")
  local target = targets[pool]
  if target then
    return target
  end

  target = { options = { pool = "apikey-jwt-exchange " .. pool }, verify = conf.ssl_verify }
  target.host, target.path = match(conf.url, "^http://(unix:/[^%s:]+):(/[^%s?#]*)$")
  target.authority = "localhost"
  if not target.host then
    local scheme, authority, path = match(conf.url, "^(https?)://([%w%.%-_:%[%]]*[%w%]])(/[^%s?#]*)$")
    if not scheme then
      return nil
    end
    local host, port = match(authority, "^(.-):(%d+)$")
    target.authority, target.path = authority, path
    target.host = host or authority
    target.tls = scheme == "https"
    target.port = tonumber(port) or (target.tls and 443 or 80)
  end
  targets[pool] = target
  return target
end


-- ---- the auth request -----------------------------------------------------------------------------

local function joined(values)
  return type(values) == "table" and concat(values, ", ") or values
end


-- Whether the client's Connection header names a header that this plugin sets. Kong removes the headers that
-- Connection names after all plugins.
local function unsets_ours(headers)
  for token in gmatch(lower(joined(headers["connection"]) or ""), "[^%s,]+") do
    if token == "authorization" or IS_IDENTITY[token] then
      return true
    end
  end
  return false
end


-- nginx refuses such a header. If one arrives here, it must not become two.
local function breaks_line(text)
  return find(text, "\n", 1, true) or find(text, "\r", 1, true)
end


-- The text of the auth request; nil if a header would break a line.
local function question_of(target, headers)
  local lines = {
    "GET " .. target.path .. " HTTP/1.1",
    "host: " .. target.authority,
    "x-forwarded-method: " .. kong.request.get_method(),
  }
  local count = #lines
  for name, values in pairs(headers) do
    if not FRAMING[name] and name ~= "x-forwarded-for" then
      local line = (RENAMED[name] and "x-forwarded-" or "") .. name .. ": "
      if type(values) ~= "table" then
        count = count + 1
        lines[count] = line .. values
      else
        for _, value in ipairs(values) do
          count = count + 1
          lines[count] = line .. value
        end
      end
    end
  end

  -- The last address counts. The client's own entries come before it.
  local forwarded_for = joined(headers["x-forwarded-for"])
  lines[count + 1] = "x-forwarded-for: " .. (forwarded_for and forwarded_for .. ", " or "")
                     .. kong.client.get_forwarded_ip()
  if not headers["x-request-id"] then
    lines[count + 2] = "x-request-id: " .. (ngx.var.kong_request_id or "")
  end
  for _, line in ipairs(lines) do
    if breaks_line(line) then
      return nil
    end
  end
  return concat(lines, "\r\n") .. "\r\n\r\n"
end


-- ---- the answer -----------------------------------------------------------------------------------

-- A header's value without trailing white space. Most values have none.
local function trimmed(value)
  local last = byte(value, -1)
  return (last == 32 or last == 9) and match(value, "^(.-)[ \t]*$") or value
end


-- Returns an answer's status, headers (names in lower case) and body. On failure: nil, the reason, and whether
-- the connection ended before the first byte.
local function read_answer(sock)
  local text, head_end, body_start = "", nil, nil
  local status, headers, length
  for _ = 1, READS_MAX do
    local chunk, err = sock:receiveany(ANSWER_BYTES_MAX)
    if not chunk then
      return nil, err, text == "" and err ~= "timeout"
    end
    text = text .. chunk

    if not headers then
      head_end, body_start = find(text, "\r\n\r\n", 1, true)
    end
    if head_end and not headers then
      local head = sub(text, 1, head_end + 1)
      local _, line_end, code = find(head, "^HTTP/1%.1 (%d%d%d)[^\r\n]*\r\n")
      if not code then
        return nil, "not HTTP/1.1"
      end
      status, headers = tonumber(code), {}
      local at = line_end + 1
      while at <= #head do
        local _, last, name, value = find(head, "^([^%c%s:]+):[ \t]*([^\r\n]*)\r\n", at)
        if not name then
          return nil, "a malformed header"
        end
        name, value = lower(name), trimmed(value)
        headers[name] = headers[name] and headers[name] .. ", " .. value or value
        at = last + 1
      end
      length = match(headers["content-length"] or "", "^%d+$") and tonumber(headers["content-length"])
      if not length or headers["transfer-encoding"] then
        return nil, "no plain content-length"
      end
    end

    local missing = headers and body_start + length - #text
    if missing == 0 then
      return { status = status, headers = headers, body = sub(text, body_start + 1) }
    end
    if #text > ANSWER_BYTES_MAX or (missing and missing < 0) then
      break
    end
  end
  return nil, "a longer answer than expected"
end


local function ask(target, timeout, question)
  local last
  for _ = 1, ATTEMPTS do
    local sock = ngx.socket.tcp()
    sock:settimeouts(math.min(timeout, CONNECT_MS_MAX), timeout, timeout)
    local ok, err
    if target.port then
      ok, err = sock:connect(target.host, target.port, target.options)
    else
      ok, err = sock:connect(target.host, target.options)
    end
    if not ok then
      return nil, err
    end

    local kept = sock:getreusedtimes() > 0
    if target.tls and not kept then
      ok, err = sock:sslhandshake(false, target.host, target.verify)
      if not ok then
        sock:close()
        return nil, err
      end
    end

    local answer, unread
    ok, err = sock:send(question)
    if ok then
      answer, err, unread = read_answer(sock)
    else
      unread = err ~= "timeout"
    end
    if answer then
      if answer.headers["connection"] == "close" or not sock:setkeepalive(KEEPALIVE_MS) then
        sock:close()
      end
      return answer
    end
    sock:close()
    last = err
    if not (kept and unread) then
      break
    end
  end
  return nil, last
end


-- ---- the decision ---------------------------------------------------------------------------------

local function pass_refusal(answer)
  local told = answer.headers
  if not REFUSALS[answer.status] or told["content-type"] ~= "application/problem+json" then
    return refuse_unanswered("status " .. answer.status)
  end
  local headers = {}
  for _, name in ipairs(REFUSAL_HEADERS) do
    headers[name] = told[name]
  end
  return exit(answer.status, answer.body, headers)
end


-- The reason why this 200 is not a valid answer of the service; nil if it is valid.
local function fault_of(answer, headers, names)
  local told = answer.headers
  -- The service's 200 always has this list, and never a body.
  if not told["x-envoy-auth-headers-to-remove"] or answer.body ~= "" then
    return "a 200 from another server"
  end
  if told["apikeys-key-id"] then
    if (told["apikeys-key-id"] == "") or (told["apikeys-owner-id"] or "") == "" then
      return "a 200 without the key's id and its owner"
    end
    if not find(told["authorization"] or "", "^Bearer [%w%-%._~%+/]+=*$") then
      return "a 200 without a token"
    end
    return nil
  end
  -- The request passes without an exchange, so the answer must repeat its credentials.
  for _, name in ipairs(names) do
    if (told[name] or "") ~= trimmed(joined(headers[name]) or "") then
      return "a 200 without the request's credentials"
    end
  end
end


-- Removes the headers in which Kong's authentication plugins name the caller to a service.
local function clear_consumer(headers)
  for _, name in ipairs(CONSUMER) do
    if headers[name] then
      kong.service.request.clear_header(name)
    end
  end
end


-- Sets Kong's authenticated caller, as its authentication plugins do, for limits and logs by key.
local function authenticate(key_id, owner_id, headers)
  kong.client.authenticate(nil, { id = key_id, owner_id = owner_id })
  kong.log.set_serialize_value("apikeys", { key_id = key_id, owner_id = owner_id })
  clear_consumer(headers)
  kong.service.request.set_header("X-Credential-Identifier", key_id)
end


-- Changes the request's headers by a valid 200.
local function go_on(told, headers, names)
  local clear_header = kong.service.request.clear_header
  local set_header = kong.service.request.set_header

  -- A service may read an underscore as a dash, so the forms with underscores are removed, too.
  for name in pairs(headers) do
    if IS_IDENTITY[name] or (find(name, "_", 1, true) and IS_IDENTITY[gsub(name, "_", "-")]) then
      clear_header(name)
    end
  end
  for _, name in ipairs(IDENTITY) do
    if told[name] then
      set_header(name, told[name])
    end
  end
  -- Removes other headers with the key.
  for name in gmatch(told["x-envoy-auth-headers-to-remove"] or "", "[^%s,]+") do
    if headers[name] and not IS_IDENTITY[lower(name)] then
      clear_header(name)
    end
  end

  if told["apikeys-key-id"] then
    set_header("Authorization", told["authorization"])
    return authenticate(told["apikeys-key-id"], told["apikeys-owner-id"], headers)
  end
  -- If no other plugin has found a caller, the client has forged these headers.
  if not kong.client.get_credential() then
    clear_consumer(headers)
  end
  for _, name in ipairs(names) do
    if headers[name] then
      set_header(name, headers[name])
    end
  end
end


function Handler:access(conf)
  local headers, err = kong.request.get_headers(HEADERS_MAX)
  -- Removes the credentials until the answer arrives: log plugins write the headers of a refused request.
  local names = {}
  for i, name in ipairs(conf.headers) do
    names[i] = lower(name)
    if err or headers[name] then
      kong.service.request.clear_header(name)
    end
  end
  if err or unsets_ours(headers) then
    return refuse_request()
  end
  local target = target_of(conf)
  if not target then
    return refuse_unanswered("'url' is not a URL that the plugin can use")
  end
  local question = question_of(target, headers)
  if not question then
    return refuse_request()
  end

  local answer, reason = ask(target, conf.timeout, question)
  if not answer then
    return refuse_unanswered(reason)
  end
  if answer.status ~= 200 then
    return pass_refusal(answer)
  end
  local fault = fault_of(answer, headers, names)
  if fault then
    return refuse_unanswered(fault)
  end
  return go_on(answer.headers, headers, names)
end


-- Kong Enterprise runs this in place of `access` on routes with ws and wss.
function Handler:ws_handshake(conf)
  return self:access(conf)
end


return Handler
