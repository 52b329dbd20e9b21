module traffic

go 1.25.11
