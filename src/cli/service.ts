/** `stowage service systemd|supervisor`: prints what a service manager needs to keep `stowage up` running. */
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { userInfo } from 'node:os'
import { StowageError } from '../core/errors.ts'
import { configNames } from '../daemon/config.ts'
import type { Context } from './main.ts'

/** Prints it; nothing is installed. */
export async function run(
  { config, output }: Context,
  [kind = '']: string[],
  options: { user?: string; name?: string },
): Promise<undefined> {
  const unit = Object.hasOwn(units, kind) ? units[kind] : undefined
  if (!unit)
    throw new StowageError('INVALID_ARGUMENT', `There is no service manager ${JSON.stringify(kind)} here.`, {
      hint: `There are: ${Object.keys(units).join(', ')}.`,
    })
  const file = path.resolve(config ?? configNames.find((name) => existsSync(name)) ?? 'stowage.config.ts')
  const [user, name] = [options.user ?? userInfo().username, options.name ?? 'stowage']
  const words = [process.execPath, path.resolve(process.argv[1] ?? 'stowage'), 'up', '--config', file]
  const text = unit({ user, name, file, command: words.map(quoted).join(' ') })
  output.object({ unit: text })
  for (const line of text.trimEnd().split('\n')) output.line(line)
  return undefined
}

interface Unit {
  user: string
  name: string
  /** The configuration. */
  file: string
  command: string
}

const units: Record<string, (unit: Unit) => string> = {
  systemd: ({ user, name, file, command }) => `# /etc/systemd/system/${name}.service
# Then: systemctl daemon-reload && systemctl enable --now ${name}
[Unit]
Description=Stowage keeps files where they belong (${file})
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=all
User=${user}
ExecStart=${command}
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=60
# After a crash it is started again, each time a little later; what was in hand is done again.
Restart=on-failure
RestartSec=10
RestartSteps=5
RestartMaxDelaySec=300
TimeoutStopSec=60
UMask=0027
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
`,
  supervisor: ({ user, name, file, command }) => `; /etc/supervisor/conf.d/${name}.conf
; Then: supervisorctl update. A new configuration (${file}): supervisorctl signal HUP ${name}
[program:${name}]
command=${command}
user=${user}
autostart=true
; After a crash it is started again; what was in hand is done again.
autorestart=unexpected
startsecs=10
startretries=1000000
stopsignal=TERM
stopwaitsecs=60
redirect_stderr=true
`,
}

/** As both of them read it. */
function quoted(word: string): string {
  return /^[\w./:@-]+$/.test(word) ? word : `"${word.replaceAll('%', '%%').replace(/["\\$]/g, '\\$&')}"`
}
