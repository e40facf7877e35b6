// A page as it was in the field: it asks every 3 s, and a 404 is an answer like any other to it.

Page({
  data: { progress: 0, stage: "", completed: false },

  onLoad(options) {
    this.executionId = options.executionId;
    this.pollInterval = setInterval(() => this.fetchTaskStatus(this.executionId), getApp().pollMs);
  },

  fetchTaskStatus(executionId) {
    wx.request({
      url: `${getApp().base}/test/status/${executionId}`,
      success: (response) => {
        if (!response.data.task_id) return;
        const { progress, stage, is_completed: completed } = response.data;
        this.setData({ progress, stage, completed });
        if (completed) clearInterval(this.pollInterval);
      },
    });
  },

  onUnload() {
    clearInterval(this.pollInterval);
  },
});
