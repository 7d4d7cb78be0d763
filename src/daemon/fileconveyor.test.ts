import assert from 'node:assert/strict'
import { test } from 'node:test'
import { importFileConveyor } from './fileconveyor.ts'

const options = { name: 'config.xml', secretsDirectory: '/etc/stowage/secrets' }

/** What File Conveyor's sample has, and one server of each kind. */
const sample = `<?xml version="1.0" encoding="UTF-8"?>
<config>
  <sources ignoredDirs="CVS:.svn">
    <source name="drupal" scanPath="/htdocs/drupal" documentRoot="/htdocs" basePath="/drupal/" />
    <source name="downloads" scanPath="/srv/downloads" />
  </sources>
  <servers>
    <server name="origin pull cdn" transporter="symlink_or_copy">
      <location>/htdocs/static.example.com</location>
      <url>http://static.example.com</url>
    </server>
    <server name="ftp" transporter="ftp" maxConnections="5">
      <host>ftp.example.com</host><username>me@home</username><password>p/w:1</password>
      <url>http://ftp.example.com/static/</url><port>2121</port><path>/a b/static</path>
    </server>
    <server name="sftp" transporter="sftp">
      <host>ssh.example.com</host><username>me</username><url>http://ssh.example.com</url><key>/srv/me/.ssh/id</key>
    </server>
    <server name="s3" transporter="s3">
      <access_key_id>AKIA</access_key_id><secret_access_key>very/secret</secret_access_key>
      <bucket_name>media</bucket_name><bucket_prefix>static/</bucket_prefix>
    </server>
    <server name="cf" transporter="cf">
      <access_key_id>AKIA</access_key_id><secret_access_key>very/secret</secret_access_key>
      <bucket_name>media</bucket_name><distro_domain_name>d1.cloudfront.net</distro_domain_name>
    </server>
    <server name="mosso" transporter="mosso">
      <username>me</username><api_key>k</api_key><container>c</container>
    </server>
  </servers>
  <rules>
    <rule for="drupal" label="CSS, JS, images and Flash" fileDeletionDelayAfterSync="0">
      <filter>
        <paths>modules:misc</paths>
        <extensions>ico:js:css:gif:png</extensions>
        <ignoredDirs>CVS</ignoredDirs>
        <pattern>.*foo.*</pattern>
        <size conditionType="minimum">1000</size>
      </filter>
      <processorChain>
        <processor name="image_optimizer.KeepFilename" />
        <processor name="unique_filename.Mtime" />
        <processor name="link_updater.CSSURLUpdater" />
      </processorChain>
      <destinations>
        <destination server="ftp" path="/static/" />
        <destination server="s3" />
        <destination server="origin pull cdn" path="drupal" />
      </destinations>
    </rule>
    <rule for="downloads" label="Downloads">
      <filter><size conditionType="maximum">1000</size></filter>
      <destinations><destination server="mosso" /></destinations>
    </rule>
    <rule for="downloads" label="Downloads"><destinations><destination server="cf" /></destinations></rule>
  </rules>
</config>`.replaceAll('origin pull cdn', 'origin-pull-cdn')

test('every element of the sample has its counterpart', () => {
  const { config, secrets, servers } = importFileConveyor(sample, options)
  assert.deepEqual(config.sources, {
    drupal: { directory: '/htdocs/drupal', ignore: ['CVS', '.svn'], documentRoot: '/htdocs', basePath: '/drupal/' },
    downloads: { directory: '/srv/downloads', ignore: ['CVS', '.svn'] },
  })
  const secret = (name: string) => `file:${encodeURIComponent(`/etc/stowage/secrets/${name}`)}`
  assert.deepEqual(config.stores, {
    'origin-pull-cdn': { url: 'file:///htdocs/static.example.com', publicUrl: 'http://static.example.com/' },
    'ftp-server': {
      url: `ftp://me%40home:${secret('ftp-server.password')}@ftp.example.com:2121/a%20b/static`,
      publicUrl: 'http://ftp.example.com/static/',
    },
    'sftp-server': {
      url: 'sftp://me@ssh.example.com/?private_key=%2Fsrv%2Fme%2F.ssh%2Fid',
      publicUrl: 'http://ssh.example.com/',
    },
    's3-server': {
      url: `s3://${secret('s3-server.access_key_id')}:${secret('s3-server.secret_access_key')}@s3.amazonaws.com/static?s3_bucket=media`,
      publicUrl: 'https://media.s3.amazonaws.com/static/',
    },
    cf: {
      url: `s3://${secret('cf.access_key_id')}:${secret('cf.secret_access_key')}@s3.amazonaws.com/?s3_bucket=media`,
      publicUrl: 'https://d1.cloudfront.net/',
    },
    'mosso-server': {
      url: `cloudfiles://me:${secret('mosso-server.api_key')}@identity.api.rackspacecloud.com/?container=c`,
    },
  })
  const cacheControl = 'max-age=315360000'
  assert.deepEqual(config.rules, [
    {
      label: 'CSS, JS, images and Flash',
      source: 'drupal',
      filter: {
        paths: ['modules', 'misc'],
        extensions: ['ico', 'js', 'css', 'gif', 'png'],
        ignoredDirs: ['CVS'],
        pattern: 'foo.*',
        size: { minimum: 1001 },
      },
      processors: ['image_optimizer.KeepFilename', 'unique_filename.Mtime', 'link_updater.CSSURLUpdater'],
      destinations: [
        { store: 'ftp-server', path: 'static', maxConnections: 5 },
        { store: 's3-server', cacheControl },
        { store: 'origin-pull-cdn', path: 'drupal', link: 'symlink' },
      ],
      deleteSourceAfter: '0s',
    },
    {
      label: 'Downloads',
      source: 'downloads',
      filter: { size: { maximum: 999 } },
      destinations: [{ store: 'mosso-server' }],
    },
    { label: 'Downloads (2)', source: 'downloads', destinations: [{ store: 'cf', cacheControl }] },
  ])
  assert.equal(secrets.get('/etc/stowage/secrets/s3-server.secret_access_key'), 'very/secret')
  assert.equal(servers.get('ftp'), 'ftp-server')
  assert.ok(!JSON.stringify(config).includes('very/secret') && !JSON.stringify(config).includes('p/w:1'))
})

test('every mistake is told at once, with its line and element, and no secret', () => {
  const broken = sample
    .replace('scanPath="/htdocs/drupal"', '')
    .replace('basePath="/drupal/"', 'basePath="drupal"')
    .replace('<host>ftp.example.com</host>', '<colour>red</colour>')
    .replace('transporter="sftp"', 'transporter="gopher"')
    .replace('<destination server="mosso" />', '<destination server="nowhere" />')
    .replace('conditionType="minimum"', 'conditionType="tiny"')
    .replace('<extensions>ico:js:css:gif:png</extensions>', '<extensions></extensions><colour/>')
  assert.throws(
    () => importFileConveyor(broken, options),
    (error: Error) => {
      const lines = error.message.split('\n').slice(1)
      const expected = [
        /line 4, <source>: the base path "drupal"/,
        /line 4, <source>: the attribute scanPath is missing/,
        /line 12, <server>: the setting <host> is missing/,
        /line 13, <colour>: it is no setting of the transporter ftp/,
        /line 16, <server>: there is no counterpart of the transporter "gopher"/,
        /line 32, <rule>: there is no source "drupal"/,
        /line 35, <extensions>: it is empty/,
        /line 35, <colour>: it is not known within <filter>/,
        /line 38, <size>: conditionType must be/,
        /line 53, <destination>: there is no server "nowhere"/,
      ]
      for (const each of expected)
        assert.ok(
          lines.some((line) => each.test(line)),
          `${each} in\n${error.message}`,
        )
      assert.ok(!/very|p\/w/.test(error.message))
      return true
    },
  )
})

test('what is no XML, or not of File Conveyor, is told with its place', () => {
  const cut = sample.slice(0, sample.indexOf('</rules>'))
  assert.throws(() => importFileConveyor(cut, options), {
    code: 'INVALID_CONFIG',
    message: /^config.xml, line \d+, column \d+: /,
  })
  assert.throws(() => importFileConveyor('<html/>', options), { message: /the outermost element is <html>/ })
  assert.throws(() => importFileConveyor('<config/>', options), { message: /<sources> is missing/ })
})
