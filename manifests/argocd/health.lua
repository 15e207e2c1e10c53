-- Health of a BagpipeJob for Argo CD: the value of
-- `resource.customizations.health.bagpipe.dev_BagpipeJob` in its ConfigMap argocd-cm.
local health = {status = "Progressing", message = "no operator has looked at the job yet"}
local status = obj.status
if status == nil or status.phase == nil then
  return health
end
local words = {
  Starting = "Progressing", Restarting = "Progressing", Suspending = "Progressing", Running = "Healthy", Complete = "Healthy",
  Deleting = "Progressing", Failed = "Degraded", Suspended = "Suspended", Queued = "Suspended",
}
health.status = words[status.phase] or "Progressing"
health.message = status.phase .. (status.reason and (": " .. status.reason) or "")
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Failed" and condition.status ~= "False" then
    health.status, health.message = "Degraded", condition.reason .. ": " .. (condition.message or "")
  end
end
return health
