"""A page to chat at `/`: static files, which talk to the API as any other client does."""
