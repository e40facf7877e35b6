const config = require("../../config");
const words = require("../../words");

const { client } = getApp();
const PAGE = 20;

Page({
  data: { rows: [], next: null, errorText: "" },

  // Again each time it is shown: tasks have gone on meanwhile.
  onShow() {
    return this.load(null);
  },

  onReachBottom() {
    return this.data.next ? this.load(this.data.next) : undefined;
  },

  onPullDownRefresh() {
    return this.load(null).then(() => wx.stopPullDownRefresh());
  },

  load(cursor) {
    const asked = { limit: PAGE };
    if (cursor) asked.cursor = cursor;
    if (config.owner) asked.owner = config.owner;
    return client.history(asked).then(
      ({ tasks, next }) => {
        const rows = tasks.map((task) => ({
          id: task.task_id,
          kind: task.kind || "",
          progress: task.progress || 0,
          statusText: words.STATUS[task.status],
        }));
        this.setData({ rows: cursor ? this.data.rows.concat(rows) : rows, next, errorText: "" });
      },
      (failure) => this.setData({ errorText: failure.errMsg }),
    );
  },

  open({ currentTarget }) {
    wx.navigateTo({ url: `/pages/detail/index?task_id=${encodeURIComponent(currentTarget.dataset.id)}` });
  },
});
