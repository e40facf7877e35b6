// What the user reads.
module.exports = {
  STATUS: {
    pending: "等待中",
    running: "进行中",
    cancelling: "正在取消",
    completed: "已完成",
    failed: "失败",
    cancelled: "已取消",
    lost: "已中断",
  },
  STATES: {
    connecting: "连接中…",
    online: "",
    polling: "网络不稳定，定时刷新",
    offline: "网络已断开",
    closed: "无法连接",
  },
  STAGES: {
    recorded: "已提交取消请求",
    delivered: "执行方已收到",
    honoured: "已取消",
    refused: "执行方拒绝取消",
    too_late: "任务已结束，未能取消",
    forced: "已强制取消",
  },
  DEGRADED: "服务繁忙，显示的可能不是最新状态",
};
