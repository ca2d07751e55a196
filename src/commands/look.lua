-- Looks at a command that came due: ends it if its time is over, and says what is to be done.
-- KEYS[1]  the device's row
-- KEYS[2]  the device's queue
-- KEYS[3]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- Returns  {'gone'}, {'done'}, {'publish', command} or {'waiting', row, deadline}

local state, epoch, attempts, deadline, place, published =
  unpack(redis.call('HMGET', KEYS[3], 'state', 'epoch', 'attempts', 'deadline', 'place', 'published'))
if not state then
  return {'gone'}
end
if published then
  return {'done'}
end
if not TERMINAL[state] then
  if now < tonumber(deadline) then
    return {'waiting', row_of(KEYS[1]), deadline}
  end
  local reason = 'outcome_unknown'
  if not epoch then
    reason = 'unsent'
  end
  turn(KEYS[3], 'expired', attempts, epoch, reason)
  leave(KEYS[2], place)
end
return {'publish', redis.call('HGETALL', KEYS[3])}
