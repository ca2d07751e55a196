-- Takes a command back, if no connection was ever allowed to write it.
-- KEYS[1]  the device's queue
-- KEYS[2]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  in milliseconds: an older command's entry in the due list may be far off
-- Returns  {'canceled', transition, far off, command}, {'late', state} or {'gone'}

local state, created, place = unpack(redis.call('HMGET', KEYS[2], 'state', 'created', 'place'))
if not state then
  return {'gone'}
end
if state == 'canceled' then
  return {'canceled', '0', '0', redis.call('HGETALL', KEYS[2])}
end
if state ~= 'queued' then
  return {'late', state}
end
turn(KEYS[2], 'canceled', 0, nil, nil)
leave(KEYS[1], place)
local far = '0'
if now - tonumber(created) > tonumber(ARGV[2]) then
  far = '1'
end
return {'canceled', '1', far, redis.call('HGETALL', KEYS[2])}
