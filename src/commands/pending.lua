-- What the connection of an epoch has to send, in queue order; or all that have not ended.
-- KEYS[1]  the device's queue
-- KEYS[2]  what the keys of the device's commands begin with
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the epoch; empty: all that have not ended
-- ARGV[3]  at most so many
-- Returns  their ids

local ids = {}
local most = tonumber(ARGV[3])
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  if #ids >= most then
    break
  end
  local id = entry[2][2]
  local command = redis.call('HMGET', KEYS[2] .. id, 'state', 'epoch', 'deadline')
  if not command[1] then
    -- Its command is gone, which only somebody else's hand can have done: the queue must not fill up with such.
    leave(KEYS[1], entry[1])
  elseif ARGV[2] == '' or (command[2] ~= ARGV[2] and now < tonumber(command[3])) then
    ids[#ids + 1] = id
  end
end
return ids
