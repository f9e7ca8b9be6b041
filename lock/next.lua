-- next.lua (behind begin.lua, release.lua and grant.lua): let those who wait have what is free.
scan()
grant(ARGV[1])
return {was}
