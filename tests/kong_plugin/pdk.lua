-- Stands in for Kong in the tests: the PDK functions that the plugin may use, written over nginx's API like
-- Kong's own, and the sandbox of Kong 3.15 for streamed plugins (`untrusted_lua = lax`). Any other name raises
-- an error, so the plugin cannot use one by accident.

local _M = {}

local REQUEST_HEADERS_MOST = 1000

local checked_value
function checked_value(value)
  if type(value) == "table" then
    local values = {}
    for i, each in ipairs(value) do
      values[i] = checked_value(each)
    end
    return values
  end
  assert(type(value) == "string", "a header's value must be a string")
  return value == "" and " " or value
end

_M.kong = {
  request = {
    get_headers = function(most)
      assert(most >= 1 and most <= REQUEST_HEADERS_MOST)
      local headers, err = ngx.req.get_headers(most)
      if headers["test-line-end"] then
        headers["x-broken"] = "a" .. ngx.unescape_uri(headers["test-line-end"]) .. "x-forwarded-for: 10.0.0.1"
      end
      return headers, err
    end,
    get_header = function(name)
      local value = ngx.req.get_headers()[name]
      return type(value) == "table" and value[1] or value
    end,
    get_method = ngx.req.get_method,
  },
  client = {
    get_forwarded_ip = function()
      return ngx.var.remote_addr
    end,
    authenticate = function(consumer, credential)
      assert(ngx.get_phase() == "access")
      assert(consumer ~= nil or credential ~= nil, "either credential or consumer must be provided")
      ngx.ctx.authenticated_consumer = consumer
      ngx.ctx.authenticated_credential = credential
    end,
    get_credential = function()
      return ngx.ctx.authenticated_credential
    end,
  },
  log = {
    err = function(...)
      ngx.log(ngx.ERR, "[apikey-jwt-exchange] ", ...)
    end,
    set_serialize_value = function(key, value)
      ngx.ctx.serialized = { key = key, value = value }
    end,
  },
  service = {
    request = {
      set_header = function(name, value)
        ngx.req.set_header(name, checked_value(value))
      end,
      clear_header = function(name)
        assert(type(name) == "string")
        ngx.req.clear_header(name)
      end,
    },
  },
  response = {
    exit = function(status, body, headers)
      assert(type(status) == "number" and status >= 100 and status <= 599)
      assert(body == nil or type(body) == "string")
      ngx.status = status
      for name, value in pairs(headers) do
        ngx.header[name] = checked_value(value)
      end
      ngx.header["Content-Length"] = #(body or "")
      ngx.print(body or "")
      return ngx.exit(status)
    end,
  },
}

local function refuse(_, name)
  error("the sandbox has no '" .. tostring(name) .. "'", 2)
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

-- Loads a file of the plugin as the sandbox does: without `require`, and with only these globals.
local function load_in_sandbox(path, extra)
  local env = {
    assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, pcall = pcall, select = select,
    tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
    math = math, string = string, table = table,
  }
  for name, value in pairs(extra) do
    env[name] = value
  end
  return assert(load(read(path), "@" .. path, "t", env)), env
end

function _M.handler(path)
  local chunk, env = load_in_sandbox(path, {
    kong = _M.kong,
    ngx = setmetatable({ socket = { tcp = ngx.socket.tcp } }, {
      __index = function(_, name)
        return name == "var" and ngx.var or refuse(nil, name)
      end,
    }),
  })
  setmetatable(env, { __index = refuse, __newindex = refuse })
  return chunk()
end

-- The plugin's schema as a file on a node (`with_ngx`), or as in the sandbox, without `ngx`.
function _M.schema(path, with_ngx)
  return load_in_sandbox(path, { ngx = with_ngx and ngx or nil })()
end

local function config_fields(schema)
  for _, field in ipairs(schema.fields) do
    if field.config then
      return field.config.fields
    end
  end
end

local CHECKS = {
  string = function(field, value)
    if type(value) ~= "string" or value == "" then
      return false
    end
    local any = not field.match_any
    for _, pattern in ipairs(field.match_any and field.match_any.patterns or {}) do
      any = any or value:match(pattern) ~= nil
    end
    return any and (not field.match or value:match(field.match) ~= nil)
  end,
  integer = function(field, value)
    return type(value) == "number" and value % 1 == 0
           and value >= field.between[1] and value <= field.between[2]
  end,
  boolean = function(_, value)
    return type(value) == "boolean"
  end,
}
CHECKS.array = function(field, values)
  if type(values) ~= "table" or #values < field.len_min then
    return false
  end
  for _, value in ipairs(values) do
    if not CHECKS[field.elements.type](field.elements, value) then
      return false
    end
  end
  return true
end

-- A configuration with the schema's defaults; nil and the field's name if the schema refuses it.
function _M.configured(schema, given)
  local config, known = {}, {}
  for _, entry in ipairs(config_fields(schema)) do
    local name, field = next(entry)
    known[name] = true
    local value = given[name]
    if value == nil then
      value = field.default
    end
    if not CHECKS[field.type](field, value) then
      return nil, name
    end
    config[name] = value
  end
  for name in pairs(given) do
    if not known[name] then
      return nil, name
    end
  end
  return config
end

return _M
