"""The realtime gateway: workers report, clients watch and cancel, over one WebSocket or plain HTTP."""
