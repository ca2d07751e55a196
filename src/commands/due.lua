-- Stands in front of what enters a command into its due list.
--
-- Sees that the command `member` is looked at in time: makes its entry in `list`, or brings it forward; never puts it off. At
-- the latest `latest` milliseconds after `at`, at the earliest `earliest`, in between at its deadline; a missing one is `ttl`
-- after `at`. Returns the time it was to be looked at.
local function enter(list, member, at, latest, earliest, deadline, ttl)
  local ends = at + tonumber(ttl)
  if deadline ~= '' then
    ends = tonumber(deadline)
  end
  local score = digits(math.min(at + tonumber(latest), math.max(ends, at + tonumber(earliest))))
  redis.call('ZADD', list, 'LT', score, member)
  return score
end

