-- Stands in front of every script about one command: the time, and what all transitions have in common.
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
--
-- A command is a hash: id, state, reason, version, attempts, max, epoch, deadline, created, name, params, by, key,
-- origin, body (hash of what was asked), place (its entry in the queue), history (a line for each transition: version,
-- state, time, attempts, epoch, reason, with '-' for nothing), result, message, late_*, published. Absent: nothing.

local function digits(number)
  return string.format('%.0f', number)
end

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(ARGV[1])
end

local TERMINAL = {succeeded = true, failed = true, rejected = true, expired = true, canceled = true}
local RANK = {queued = 0, sent = 1, received = 2, running = 3}

-- One transition of the command at `key`: one version more and one line of history.
local function turn(key, state, attempts, epoch, reason)
  local version = redis.call('HINCRBY', key, 'version', 1)
  local line = version .. ' ' .. state .. ' ' .. digits(now) .. ' ' .. attempts .. ' ' .. (epoch or '-') .. ' '
    .. (reason or '-') .. '\n'
  local history = redis.call('HGET', key, 'history') or ''
  redis.call('HSET', key, 'state', state, 'history', history .. line)
  if reason then
    redis.call('HSET', key, 'reason', reason)
  end
end

-- Takes an ended command out of the queue; the queue's key goes with its last entry.
local function leave(queue, place)
  redis.call('XDEL', queue, place)
  if redis.call('XLEN', queue) == 0 then
    redis.call('DEL', queue)
  end
end

-- Node, incarnation and epoch of the device's row; nothing where there is none, or one of a node that was found dead.
local function row_of(own)
  local row = redis.call('HMGET', own, 'node', 'incarnation', 'epoch', 'settled')
  if not row[1] or not row[2] or not row[3] or row[4] then
    return {}
  end
  return {row[1], row[2], row[3]}
end

