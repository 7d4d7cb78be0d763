/** How a URL says who logs in. */
import { StowageError } from '../../core/errors.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type { Login } from './auth.ts'

/**
 * The login of a URL, and all its parameters that are about it. Version 3 is what somebody means who names something that
 * only it has. Throws INVALID_ARGUMENT.
 */
export function loginOf({ user, password, parameters }: StorageUrl): Login {
  const version = parameters.number('auth_version')
  const path = parameters.text('auth_path')
  const domain = parameters.text('domain')
  const given = {
    project: parameters.text('project'),
    userDomain: parameters.text('user_domain') ?? domain,
    projectDomain: parameters.text('project_domain') ?? domain,
    region: parameters.text('region'),
    interface: parameters.text('interface'),
    id: parameters.text('application_credential_id'),
    secret: parameters.text('application_credential_secret'),
  }
  const isThird = Object.values(given).some((value) => value !== undefined)
  if (version === 2)
    throw invalid('Version 2 of the login is gone from OpenStack since 2018.', 'Use auth_version=3 with project.')
  if (version !== undefined && version !== 1 && version !== 3)
    throw invalid(`There is no version ${version} of the login.`, 'auth_version is 1 or 3.')
  if (version === 1 && isThird)
    throw invalid(
      'Version 1 of the login knows neither projects, domains, regions nor interfaces.',
      'Use auth_version=3.',
    )
  const common = path === undefined ? {} : { path: path.startsWith('/') ? path : `/${path}` }
  if (version === 3 || isThird || path?.replace(/\/+$/, '').endsWith('/v3'))
    return loginV3({ user, password }, given, common)
  if (!user || !password) throw invalid('The swift URL has no user or no key.', 'Write swift://USER:KEY@host/….')
  return { version: 1, ...common, user, key: password }
}

function loginV3(
  { user, password }: Pick<StorageUrl, 'user' | 'password'>,
  given: Record<
    'project' | 'userDomain' | 'projectDomain' | 'region' | 'interface' | 'id' | 'secret',
    string | undefined
  >,
  common: { path?: string },
): Login {
  const { project, userDomain, projectDomain, region, interface: wanted, id, secret } = given
  const which = (['public', 'internal'] as const).find((each) => each === wanted)
  if (which !== wanted) throw invalid('The interface is neither public nor internal.', 'Mend interface.')
  const rest = {
    version: 3,
    ...common,
    ...(region ? { region } : {}),
    ...(which ? { interface: which } : {}),
  } as const
  if (id && secret) return { ...rest, proof: { applicationCredentialId: id, applicationCredentialSecret: secret } }
  if (id || secret)
    throw invalid('Half of the application credential is missing.', 'Give application_credential_id and …_secret.')
  if (!user || !password || !project)
    throw invalid(
      'The swift URL lacks the user, the password or the project.',
      'Write swift://USER:PASSWORD@host/…?project=NAME, or give an application credential.',
    )
  const domains = { ...(userDomain ? { userDomain } : {}), ...(projectDomain ? { projectDomain } : {}) }
  return { ...rest, proof: { user, password, project, ...domains } }
}

/** The failure of a URL that cannot be meant. */
export function invalid(message: string, hint: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, { hint })
}
