-- Put here by recell. Requests to one backend wait while a lease runs, and then go to the side that the
-- lease's file names. The file is opened at the start, before HAProxy gives up its rights and its root
-- directory, and written in place: so every worker, an old one that a reload has left too, reads the same.
local PATH = "@PATH@"
local BACKENDS = { old = "@OLD@", new = "@NEW@" }
local LENGTH = 128
local POLL_MS = 20
-- A lease that ends much later than its own length was written by another clock. HAProxy's own lags behind
-- while its process gets no CPU, so this has to be generous.
local SLACK_MS = 30000

local file = io.open(PATH, "r")
if file then file:setvbuf("no") end

local gate = { hold = "0", side = "old", toward = "-", till = 0, lease = 0, longest = 0 }
local known = ""
local waiting, waited, longest_ms = 0, 0, 0
local decided, decided_till, deciding = nil, 0, false

local function now_ms()
  local now = core.now()
  return now.sec * 1000 + math.floor(now.usec / 1000)
end

local function sum(text)
  local a, b = 1, 0
  for i = 1, #text do
    a = (a + text:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return b * 65536 + a
end

-- A record that is half written keeps the one before it in force.
local function look()
  if not file or not file:seek("set", 0) then return end
  local text = file:read(LENGTH)
  if not text or text == known then return end
  local body, check = text:match("^(recell1 .-) (%d+) *\n")
  if not body or sum(body) ~= tonumber(check) then return end
  local hold, side, toward, till, lease, longest =
    body:match("^recell1 (%d+) (%a+) ([%a-]+) (%d+) (%d+) (%d+)$")
  if not hold or not BACKENDS[side] then return end
  if hold ~= gate.hold then waited, longest_ms = 0, 0 end
  known = text
  decided, decided_till = nil, 0
  gate = { hold = hold, side = side, toward = toward, till = tonumber(till), lease = tonumber(lease),
           longest = tonumber(longest) }
end

local function held()
  local left = gate.till - now_ms()
  return left > 0 and left <= gate.lease + SLACK_MS
end

-- Whether all servers of a side refuse at once, which only recell's fence makes them do.
local function refuses(side)
  local any = false
  for _, server in pairs(core.backends[BACKENDS[side]].servers) do
    any = true
    local began = now_ms()
    local socket = core.tcp()
    socket:settimeout(1)
    local ran, connected = pcall(function() return socket:connect(server:get_addr()) end)
    pcall(function() socket:close() end)
    if not ran or connected or now_ms() - began > 900 then return false end
  end
  return any
end

-- A lease that ended in the middle of a switch: the fence tells every proxy the same.
local function side()
  while gate.toward ~= "-" and gate.toward ~= gate.side do
    if decided == gate.toward or (decided and now_ms() < decided_till) then return decided end
    if deciding then
      core.msleep(POLL_MS)
    else
      deciding = true
      local before = known
      local found = refuses(gate.side) and gate.toward or gate.side
      deciding = false
      if known == before then decided, decided_till = found, now_ms() + 500 end
    end
    look()
  end
  return gate.side
end

core.register_action("@ACTION@", { "http-req", "tcp-req" }, function(txn)
  look()
  if held() then
    local began = now_ms()
    waiting, waited = waiting + 1, waited + 1
    while held() and now_ms() - began < gate.longest do
      core.msleep(POLL_MS)
      look()
    end
    waiting = waiting - 1
    longest_ms = math.max(longest_ms, now_ms() - began)
  end
  txn:set_var("txn.@ACTION@", side())
end, 0)

core.register_cli({ "show", "@ACTION@" }, "show @ACTION@ : recell's gate", function(applet)
  look()
  applet:send(string.format("gate hold=%s side=%s toward=%s held=%d waiting=%d waited=%d longest=%d\n",
    gate.hold, gate.side, gate.toward, held() and 1 or 0, waiting, waited, longest_ms))
end)
