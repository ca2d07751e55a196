-- Stands in front of what allows a connection to write a command's frame.
--
-- Whether the connection of epoch `by` may write the command at `key`; `again`: it has written it before. An older command's
-- entry in the due list may be far off: older than `far_after` milliseconds.
-- Returns {'write', transition, far off, command}, {'undeliverable', '1', far off, command} or {why not}:
-- gone, ended, fenced, past, spent
local function mark(own, queue, key, by, again, far_after)
  local state, epoch, attempts, max, deadline, created, place =
    unpack(redis.call('HMGET', key, 'state', 'epoch', 'attempts', 'max', 'deadline', 'created', 'place'))
  if not state then
    return {'gone'}
  end
  if TERMINAL[state] then
    return {'ended'}
  end
  if row_of(own)[3] ~= by then
    return {'fenced'}
  end
  if now >= tonumber(deadline) then
    return {'past'}
  end
  if epoch and tonumber(epoch) > tonumber(by) then
    return {'fenced'}
  end

  local far = '0'
  if now - tonumber(created) > tonumber(far_after) then
    far = '1'
  end
  attempts = tonumber(attempts)
  max = tonumber(max)
  local here = epoch == by

  if state == 'received' or state == 'running' or (state == 'sent' and here) then
    if state == 'sent' and again and attempts >= max then
      return {'spent'}
    end
    redis.call('HSET', key, 'epoch', by)
    return {'write', '0', far, redis.call('HGETALL', key)}
  end
  if attempts >= max then
    local reason = 'undeliverable'
    if max == 1 then
      reason = 'outcome_unknown'
    end
    turn(key, 'failed', attempts, epoch, reason)
    leave(queue, place)
    return {'undeliverable', '1', far, redis.call('HGETALL', key)}
  end
  attempts = attempts + 1
  redis.call('HSET', key, 'attempts', attempts, 'epoch', by)
  turn(key, 'sent', attempts, by, nil)
  return {'write', '1', far, redis.call('HGETALL', key)}
end

