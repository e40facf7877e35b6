// The same page with the client in place of its interval.

Page({
  data: { progress: 0, stage: "", completed: false },

  onLoad(options) {
    this.executionId = options.executionId;
    this.watching = getApp().client.subscribe(this.executionId, {
      onState: (task) =>
        this.setData({ progress: task.progress, stage: task.stage, completed: task.status === "completed" }),
      onGone: () => {
        wx.showToast({ title: "诊断任务不存在，请查看历史记录", icon: "none", duration: 3000 });
        wx.navigateTo({ url: "/pages/history/history" });
      },
    });
  },

  onUnload() {
    this.watching.unsubscribe();
  },
});
