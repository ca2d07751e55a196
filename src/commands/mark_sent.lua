-- Allows a connection to write a command's frame, or not.
-- KEYS[1]  the device's row
-- KEYS[2]  the device's queue
-- KEYS[3]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the connection's epoch
-- ARGV[3]  1: it has written this command before
-- ARGV[4]  in milliseconds: an older command's entry in the due list may be far off
-- Returns  {'write', transition, far off, command}, {'undeliverable', '1', far off, command} or {why not}:
--          gone, ended, fenced, past, spent

local state, epoch, attempts, max, deadline, created, place =
  unpack(redis.call('HMGET', KEYS[3], 'state', 'epoch', 'attempts', 'max', 'deadline', 'created', 'place'))
if not state then
  return {'gone'}
end
if TERMINAL[state] then
  return {'ended'}
end
if row_of(KEYS[1])[3] ~= ARGV[2] then
  return {'fenced'}
end
if now >= tonumber(deadline) then
  return {'past'}
end
if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
  return {'fenced'}
end

local far = '0'
if now - tonumber(created) > tonumber(ARGV[4]) then
  far = '1'
end
attempts = tonumber(attempts)
max = tonumber(max)
local here = epoch == ARGV[2]

if state == 'received' or state == 'running' or (state == 'sent' and here) then
  if state == 'sent' and ARGV[3] == '1' and attempts >= max then
    return {'spent'}
  end
  redis.call('HSET', KEYS[3], 'epoch', ARGV[2])
  return {'write', '0', far, redis.call('HGETALL', KEYS[3])}
end
if attempts >= max then
  local reason = 'undeliverable'
  if max == 1 then
    reason = 'outcome_unknown'
  end
  turn(KEYS[3], 'failed', attempts, epoch, reason)
  leave(KEYS[2], place)
  return {'undeliverable', '1', far, redis.call('HGETALL', KEYS[3])}
end
attempts = attempts + 1
redis.call('HSET', KEYS[3], 'attempts', attempts, 'epoch', ARGV[2])
turn(KEYS[3], 'sent', attempts, ARGV[2], nil)
return {'write', '1', far, redis.call('HGETALL', KEYS[3])}
