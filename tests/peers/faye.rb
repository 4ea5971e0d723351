# Ruby faye-websocket, which sends a Ping of its own every second.
#
# Usage: faye.rb URL. What a peer does is written in peer.py.

require 'eventmachine'
require 'faye/websocket'

$stdout.sync = true

LARGE = Array.new(1 << 20) { |i| i % 251 }
PAYLOADS = { 'text' => 'héllo ✓', 'binary' => LARGE.first(256), 'large' => LARGE }.freeze

puts "version #{Gem::Specification.find_by_name('faye-websocket').version}"

EM.run do
  # Its library takes no word of the environment's.
  tls = { root_cert_file: ENV['SSL_CERT_FILE'] }
  socket = Faye::WebSocket::Client.new(ARGV.fetch(0), [], ping: 1, tls: tls)
  expected = nil

  socket.on(:open) { puts 'open' }
  payloads = PAYLOADS.dup

  socket.on(:message) do |event|
    puts "#{event.data == payloads[expected] ? 'ok' : 'bad'} #{expected}"
  end
  socket.on(:close) do |event|
    puts "closed #{event.code}"
    EM.stop
  end

  obey = lambda do |command|
    case command
    when 'close' then socket.close(1000)
    when 'await-close' then nil # It is said whenever it happens.
    when 'fragmented' then puts 'no fragmented'
    when /^file (.*)/
      payloads[command] = $1.end_with?('.txt') ? File.read($1, encoding: 'UTF-8') : File.binread($1).bytes
      expected = command
      socket.send(payloads[command])
    else
      expected = command
      socket.send(payloads.fetch(command))
    end
  end
  Thread.new { $stdin.each_line(chomp: true) { |command| EM.schedule { obey.call(command) } } }
end
