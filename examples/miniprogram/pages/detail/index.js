const words = require("../../words");

const { client } = getApp();
const GONE_MS = 1500;

Page({
  data: { taskId: "", task: null, statusText: "", connectionText: "", cancelText: "", shown: null },

  onLoad({ task_id: taskId }) {
    this.setData({ taskId });
    this.showConnection = ({ state, degraded }) => {
      this.setData({ connectionText: degraded ? words.DEGRADED : words.STATES[state] || "" });
    };
    client.onStateChange(this.showConnection);
    this.showConnection(client);
    // `task` in data follows the task, with few setData, until the page is unloaded.
    this.watching = client.bind(this, taskId, "task", {
      onState: (task) => {
        if (task.status !== this.data.shown)
          this.setData({ shown: task.status, statusText: words.STATUS[task.status] });
      },
      onDone: () => wx.showToast({ title: "任务已完成", icon: "success" }),
      onFail: () => wx.showToast({ title: "任务失败", icon: "none" }),
      onLost: () => wx.showToast({ title: "任务中断，请重新发起", icon: "none" }),
      onGone: () => this.leave(),
    });
  },

  // Nobody knows this task, asked five times: say so, and go where the tasks are.
  leave() {
    wx.showToast({ title: "任务不存在，请查看历史记录", icon: "none", duration: GONE_MS });
    this.leaving = setTimeout(() => wx.redirectTo({ url: "/pages/history/index" }), GONE_MS);
  },

  cancel() {
    this.watching.subscription
      .cancel({ reason: "用户取消", onStage: (stage) => this.setData({ cancelText: words.STAGES[stage] || stage }) })
      .catch((failure) => wx.showToast({ title: failure.errMsg, icon: "none" }));
  },

  onUnload() {
    clearTimeout(this.leaving);
    client.offStateChange(this.showConnection);
  },
});
